//! Buckets in host names: `bucket.s3.example.com` under the domains that the front end goes by. Any other host, an
//! address or a proxy's name, is asked in path style.

use mesh_core::Error;
use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};

/// The domains, the longest first: a bucket is what stands before the longest that fits.
#[derive(Clone, Debug)]
pub(super) struct Domains(Vec<String>);

impl Domains {
    /// The front end's own domain, if it has one, and the names that always lead to this machine.
    pub(super) fn new(own: Option<&str>) -> Self {
        let mut domains: Vec<String> =
            own.into_iter().chain(LOCAL).map(|domain| domain.trim_matches('.').to_ascii_lowercase()).collect();
        domains.sort_by_key(|domain| core::cmp::Reverse(domain.len()));
        domains.dedup();
        Self(domains)
    }

    /// The bucket that a `Host` header names, and the domain that it is under.
    pub(super) fn bucket(&self, host: &str) -> Option<(String, &str)> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let fits = |domain: &&String| {
            name == **domain || name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
        };
        let domain = self.0.iter().find(fits)?;
        let bucket = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
        (!bucket.is_empty()).then(|| (bucket.to_owned(), domain.as_str()))
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        Ok(match self.bucket(host) {
            Some((bucket, domain)) => VirtualHost::new(domain).with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}

/// Whether a domain can be one.
///
/// # Errors
/// `Invalid`: give another.
pub fn check_domain(domain: &str) -> Result<(), Error> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let address = domain.parse::<core::net::IpAddr>().is_ok();
    if domain.len() > DOMAIN_BYTES_MAX || !domain.split('.').all(label) || address {
        return Err(Error::invalid("the S3 front end's domain is a name such as s3.example.com, without a port")
            .with("domain", domain.escape_debug()));
    }
    Ok(())
}

/// Names under which every machine knows itself: `bucket.localhost` needs no name server.
const LOCAL: [&str; 2] = ["s3.localhost", "localhost"];
const DOMAIN_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(host: &str) -> Option<String> {
        Domains::new(Some("S3.Example.com")).bucket(host).map(|(bucket, _)| bucket)
    }

    #[test]
    fn a_bucket_stands_before_the_longest_domain_that_fits() {
        assert_eq!(bucket("photos.s3.example.com").as_deref(), Some("photos"));
        assert_eq!(bucket("Photos.S3.EXAMPLE.com:9000").as_deref(), Some("photos"));
        assert_eq!(bucket("my.photos.s3.example.com.").as_deref(), Some("my.photos"));
        assert_eq!(bucket("photos.localhost:9000").as_deref(), Some("photos"));
        assert_eq!(bucket("photos.s3.localhost").as_deref(), Some("photos"));
    }

    #[test]
    fn everything_else_is_path_style() {
        for host in [
            "s3.example.com",
            "localhost:9000",
            "s3.localhost",
            "example.com",
            "mesh.example.com",
            "notlocalhost",
            "photoss3.example.com",
            ".s3.example.com",
            "127.0.0.1:9000",
            "[::1]:9000",
            "",
            ":",
        ] {
            assert_eq!(bucket(host), None, "{host}");
        }
    }

    #[test]
    fn domains_have_labels_and_no_port() {
        assert!(check_domain("s3.example.com").is_ok());
        assert!(check_domain("localhost").is_ok());
        let long = "a".repeat(64);
        for bad in ["", ".", "s3.example.com:9000", "a..b", "-a.b", "a-.b", "10.0.0.1", "a b", "*.a", long.as_str()] {
            assert!(check_domain(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_bucket_and_its_domain_make_the_host(bucket in "[a-z0-9.-]{1,20}[a-z0-9]", port in 0..65536_u32) {
            let domains = Domains::new(Some("s3.example.com"));
            let host = format!("{bucket}.s3.example.com:{port}");
            prop_assert_eq!(domains.bucket(&host).map(|(bucket, _)| bucket), Some(bucket));
        }

        #[test]
        fn no_host_makes_the_reader_panic(host in "\\PC{0,40}") {
            if let Some((bucket, domain)) = Domains::new(None).bucket(&host) {
                prop_assert!(!bucket.is_empty());
                prop_assert!(host.to_ascii_lowercase().contains(domain));
            }
        }
    }
}
