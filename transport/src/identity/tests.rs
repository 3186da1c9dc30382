use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;

fn cluster() -> ClusterId {
    ClusterId([0xab; 16])
}

fn year() -> Validity {
    Validity::starting(UnixMillis(1_700_000_000_000), Duration::from_secs(365 * 86_400))
}

fn user(tenant: u64, name: &str) -> Role {
    Role::Client(Principal::User { tenant: TenantId(tenant), name: name.into() })
}

#[test]
fn a_role_is_read_back_from_its_certificate() {
    let authority = Authority::create(cluster()).unwrap();
    let longest = "é".repeat(NAME_BYTES_MAX / 2);
    let roles = [
        Role::Node(NodeId(3)),
        Role::Node(NodeId(u64::MAX)),
        Role::Dpu { node: NodeId(11), host: NodeId(3) },
        Role::Dpu { node: NodeId(u64::MAX), host: NodeId(u64::MAX - 1) },
        user(7, "alice"),
        user(u64::MAX, &longest),
        user(0, "a.tenant-9.client"),
        Role::Client(Principal::Admin { name: "root of ∀".into() }),
    ];
    for role in roles {
        let identity = authority.issue(&role, year()).unwrap();
        assert_eq!(role_of(&identity.certificate, cluster()).unwrap(), role);
        assert_eq!((identity.role(), identity.cluster()), (&role, cluster()));
        let other = role_of(&identity.certificate, ClusterId([0; 16])).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Denied);
    }
}

#[test]
fn roles_that_nobody_may_have_are_not_certified() {
    let authority = Authority::create(cluster()).unwrap();
    let roles = [
        Role::Node(NodeId(0)),
        Role::Dpu { node: NodeId(0), host: NodeId(1) },
        Role::Dpu { node: NodeId(1), host: NodeId(0) },
        Role::Dpu { node: NodeId(1), host: NodeId(1) },
        Role::Client(Principal::System),
        Role::Client(Principal::Anonymous),
        user(1, ""),
        user(1, &"x".repeat(NAME_BYTES_MAX + 1)),
    ];
    for role in roles {
        assert_eq!(authority.issue(&role, year()).unwrap_err().kind(), ErrorKind::Invalid, "{role:?}");
    }
}

#[test]
fn one_role_has_one_spelling() {
    let authority = Authority::create(cluster()).unwrap();
    let issuer = Issuer::new(authority_params(cluster()).unwrap(), &authority.key);
    let hex = cluster().to_string();
    let role = |names: Vec<String>| {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        role_of(certificate.der(), cluster()).ok()
    };
    assert_eq!(role(vec![format!("node-3.{hex}.mesh")]), Some(Role::Node(NodeId(3))));
    let strange = [
        format!("node-03.{hex}.mesh"),
        format!("node-3x{hex}.mesh"),
        format!("node-3.evil.{hex}.mesh"),
        format!("dpu-11.{hex}.mesh"),
        format!("dpu-011.node-3.{hex}.mesh"),
        format!("dpu-11.node-03.{hex}.mesh"),
        format!("dpu-11.dpu-3.node-1.{hex}.mesh"),
        format!("dpu-0.node-3.{hex}.mesh"),
        format!("user.xff.tenant-1.client.{hex}.mesh"),
        format!("user.x616.tenant-1.client.{hex}.mesh"),
        format!("user.61.tenant-1.client.{hex}.mesh"),
        format!("user.x61.tenant-1.{hex}.mesh"),
        format!("admin.x.client.{hex}.mesh"),
        format!("authority.{hex}.mesh"),
        "node-3.mesh".to_owned(),
    ];
    for name in strange {
        assert_eq!(role(vec![name.clone()]), None, "{name}");
    }
    assert_eq!(role(vec![format!("node-3.{hex}.mesh"), format!("node-4.{hex}.mesh")]), None, "two names");
    assert_eq!(role(vec![]), None);
}

#[test]
fn an_authority_survives_its_files_and_never_replaces_another() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("keys");
    let authority = Authority::create(cluster()).unwrap();
    authority.save(&dir).unwrap();
    let mode = fs::metadata(dir.join(KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let loaded = Authority::load(&dir).unwrap();
    assert_eq!((loaded.cluster(), &loaded.certificate), (cluster(), &authority.certificate));
    assert!(loaded.issue(&Role::Node(NodeId(1)), year()).is_ok());
    let other = Authority::create(ClusterId([1; 16])).unwrap();
    assert_eq!(other.save(&dir).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(Authority::load(&dir).unwrap().cluster(), cluster());
    fs::write(dir.join(CERTIFICATE_FILE), &other.certificate_pem).unwrap();
    assert_eq!(Authority::load(&dir).unwrap_err().kind(), ErrorKind::Invalid, "key and certificate differ");
    fs::remove_file(dir.join(KEY_FILE)).unwrap();
    assert_eq!(Authority::load(&dir).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn an_identity_survives_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.pem");
    let authority = Authority::create(cluster()).unwrap();
    let first = authority.issue(&Role::Node(NodeId(3)), year()).unwrap();
    first.save(&path).unwrap();
    let renewed = authority.issue(&Role::Node(NodeId(3)), year()).unwrap();
    renewed.save(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let loaded = Identity::load(&path).unwrap();
    assert_eq!((loaded.role(), loaded.cluster()), (&Role::Node(NodeId(3)), cluster()));
    assert_eq!((loaded.chain(), &loaded.key, loaded.authority()), (renewed.chain(), &renewed.key, renewed.authority()));
    assert!(!format!("{loaded:?}").contains("PRIVATE"));
}

#[test]
fn an_identity_of_parts_that_do_not_belong_together_is_refused() {
    let authority = Authority::create(cluster()).unwrap();
    let one = authority.issue(&Role::Node(NodeId(1)), year()).unwrap();
    let two = authority.issue(&Role::Node(NodeId(2)), year()).unwrap();
    let key = |identity: &Identity| {
        let from = identity.pem.find("-----BEGIN PRIVATE").unwrap();
        let end = "-----END PRIVATE KEY-----\n";
        identity.pem[from..identity.pem.find(end).unwrap() + end.len()].to_owned()
    };
    let mixed = one.pem.replace(&key(&one), &key(&two));
    for pem in [mixed, one.pem.replace(&key(&one), ""), key(&one), String::new(), format!("{}{}", one.pem, two.pem)] {
        assert_eq!(Identity::from_pem(&pem).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(role_of(&CertificateDer::from(bytes), cluster()).is_err());
    }

    #[test]
    fn arbitrary_names_never_panic_and_never_collide(text in "[a-z0-9x.-]{0,80}") {
        if let Some(role) = parse_role(&text)
            && let Ok(name) = name_of(&role, cluster())
        {
            prop_assert_eq!(parse_role(name.strip_suffix(&format!(".{}.mesh", cluster())).unwrap()), Some(role));
        }
    }
}

#[test]
fn a_clock_outside_of_a_certificates_time_is_told_both() {
    let authority = Authority::create(ClusterId([7; 16])).unwrap();
    let validity = Validity { from: UnixMillis(951_782_400_000), until: UnixMillis(951_868_800_000) };
    let identity = authority.issue(&Role::Node(NodeId(3)), validity).unwrap();
    assert_eq!(identity.check_dates(UnixMillis(951_800_000_000)), Ok(()));
    let early = identity.check_dates(UnixMillis(951_771_600_000)).unwrap_err().to_string();
    assert!(early.contains("2000-02-28 21:00:00 UTC") && early.contains("2000-02-29 00:00:00 UTC"), "{early}");
    let late = identity.check_dates(UnixMillis(951_900_000_000)).unwrap_err().to_string();
    assert!(late.contains("another") && late.contains("2000-03-01 00:00:00 UTC"), "{late}");
}
