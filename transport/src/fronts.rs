//! Certificates that front ends show the world's clients, of an authority of their own.
//!
//! It stands beside that of the mesh's links, which believe nothing that it has signed: what S3 clients trust says nothing of who is
//! a node. And its key is of another kind: those of the links are Ed25519, which not every TLS library of the world verifies; these
//! are ECDSA with P-256, which all do.

use core::time::Duration;
use std::time::SystemTime;

use mesh_core::{Error, id::ClusterId};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};

use crate::identity::{LAST_MILLIS, Validity, belongs, library};

/// The authority of a cluster's front ends.
pub struct FrontAuthority {
    cluster: ClusterId,
    key: KeyPair,
}

impl core::fmt::Debug for FrontAuthority {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FrontAuthority({})", self.cluster)
    }
}

impl FrontAuthority {
    /// A new authority with a new key.
    ///
    /// # Errors
    /// `Bug` if the cryptographic library fails.
    pub fn create(cluster: ClusterId) -> Result<Self, Error> {
        Ok(Self { cluster, key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(library)? })
    }

    /// A certificate of its own, as PEM, for clients. All that it makes of itself are as good.
    ///
    /// # Errors
    /// `Bug` if the cryptographic library fails.
    pub fn certificate(&self) -> Result<String, Error> {
        Ok(own_params(self.cluster)?.self_signed(&self.key).map_err(library)?.pem())
    }

    /// Whether a certificate is its own.
    ///
    /// # Errors
    /// `Invalid` if it cannot be read.
    pub fn owns(&self, certificate: &str) -> Result<bool, Error> {
        let damaged =
            |error| Error::invalid("the certificate of the front ends' authority is damaged").caused_by(error);
        belongs(&CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(damaged)?, &self.key)
    }

    /// Its key, as PEM. **Secret.**
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// From what [`Self::to_pem`] gave.
    ///
    /// # Errors
    /// `Invalid` if it is damaged.
    pub fn from_pem(cluster: ClusterId, pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(pem)
            .map_err(|error| Error::invalid("the key of the front ends' authority is damaged").caused_by(error))?;
        Ok(Self { cluster, key })
    }

    /// A new certificate, with a new key, by DNS names and IP addresses: both in PEM, the certificate first.
    ///
    /// # Errors
    /// As [`check_names`].
    pub fn issue(&self, names: &[String], validity: Validity) -> Result<(String, String), Error> {
        check_names(names)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(library)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(library)?;
        params.distinguished_name = common_name("mesh");
        params.not_before = (SystemTime::UNIX_EPOCH + Duration::from_millis(validity.from.0)).into();
        params.not_after = (SystemTime::UNIX_EPOCH + Duration::from_millis(validity.until.0.min(LAST_MILLIS))).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::new(own_params(self.cluster)?, &self.key);
        let certificate = params.signed_by(&key, &issuer).map_err(library)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// Whether clients can ask for a front end by these names: DNS names, of which the first label may be `*`, and IP addresses, without
/// ports and brackets.
///
/// # Errors
/// `Invalid` with the one that is none, or if there is none at all.
pub fn check_names(names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::invalid("a front end's certificate has one name at least"));
    }
    let is_one = |name: &str| {
        let plain = name.strip_prefix("*.").unwrap_or(name);
        let read = ServerName::try_from(plain);
        !plain.ends_with('.')
            && read.is_ok_and(|read| plain.len() == name.len() || matches!(read, ServerName::DnsName(_)))
    };
    match names.iter().find(|name| !is_one(name)) {
        Some(name) => {
            let what = "neither a DNS name nor an address: write s3.example.com, *.s3.example.com, 10.0.0.1 or fd00::1";
            Err(Error::invalid(what).with("name", name))
        }
        None => Ok(()),
    }
}

fn own_params(cluster: ClusterId) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new()).map_err(library)?;
    params.distinguished_name = common_name(&format!("mesh {cluster} front ends"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

#[cfg(test)]
mod tests {
    use mesh_core::time::UnixMillis;
    use rustls::pki_types::UnixTime;
    use webpki::EndEntityCert;

    use super::*;
    use crate::identity::role_of;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_front_end_is_known_by_its_names_to_who_trusts_its_authority_and_has_no_role_on_links() {
        let made = FrontAuthority::create(CLUSTER).unwrap();
        let authority = made.certificate().unwrap();
        assert_eq!(made.owns(&authority), Ok(true));
        assert_eq!(FrontAuthority::create(CLUSTER).unwrap().owns(&authority), Ok(false));
        assert!(made.owns("no certificate").is_err());
        let kept = FrontAuthority::from_pem(CLUSTER, &made.to_pem()).unwrap();
        let validity = Validity { from: UnixMillis(0), until: UnixMillis(86_400_000) };
        let authority = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
        let roots = [webpki::anchor_from_trusted_cert(&authority).unwrap()];
        for authority in [made, kept] {
            let (certificate, key) = authority
                .issue(&names(&["s3.example.com", "*.s3.example.com", "10.0.0.1", "fd00::1"]), validity)
                .unwrap();
            assert!(KeyPair::from_pem(&key).is_ok());
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let parsed = EndEntityCert::try_from(&certificate).unwrap();
            let verified = |usage, at: u64| {
                let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
                parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &roots, &[], at, usage, None, None).map(drop)
            };
            assert_eq!(verified(webpki::KeyUsage::server_auth(), 60), Ok(()));
            assert!(verified(webpki::KeyUsage::server_auth(), 86_401).is_err(), "its time is over");
            assert!(verified(webpki::KeyUsage::client_auth(), 60).is_err(), "it is no client's");
            for name in ["s3.example.com", "bucket.s3.example.com", "10.0.0.1", "fd00::1"] {
                assert_eq!(parsed.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()), Ok(()));
            }
            for name in ["example.com", "a.b.s3.example.com", "10.0.0.2"] {
                assert!(
                    parsed.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).is_err(),
                    "{name}"
                );
            }
            assert!(role_of(&certificate, CLUSTER).is_err());
        }
        // Whatever name it has: links believe another authority.
        let forged = FrontAuthority::create(CLUSTER).unwrap();
        let name = crate::identity::server_name(mesh_core::id::NodeId(1), CLUSTER);
        let (certificate, _) = forged.issue(&[name], validity).unwrap();
        let links = crate::identity::Authority::create(CLUSTER).unwrap();
        let anchor = links.issue(&mesh_core::port::Role::Node(mesh_core::id::NodeId(1)), validity).unwrap();
        let roots = [webpki::anchor_from_trusted_cert(anchor.authority()).unwrap()];
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(60));
        let parsed = EndEntityCert::try_from(&certificate).unwrap();
        let usage = webpki::KeyUsage::server_auth();
        assert!(parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &roots, &[], at, usage, None, None).is_err());
    }

    #[test]
    fn what_no_client_can_ask_for_is_no_name() {
        for name in ["s3.example.com", "*.example.com", "localhost", "a_b.example.com", "127.0.0.1", "::1"] {
            assert_eq!(check_names(&names(&[name])), Ok(()), "{name}");
        }
        for name in [
            "",
            "s3.example.com:9000",
            "https://s3.example.com",
            "a b",
            "[fd00::1]",
            "10.0.0.1:9000",
            "*.10.0.0.1",
            "*",
            "a.*.b",
            "s3.example.com.",
            "é.example.com",
            "10.0.0.1/24",
        ] {
            assert!(check_names(&names(&["good", name])).is_err(), "{name:?}");
        }
        assert!(check_names(&[]).is_err());
    }
}
