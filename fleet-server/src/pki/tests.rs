use super::*;
use rcgen::{CertificateParams, DnType};
use sedge_protocol::id::Principal;
use sedge_protocol::topic::Caller;
use std::os::unix::fs::PermissionsExt as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn authority() -> (tempfile::TempDir, Pki) {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = Pki::open(&dir.path().join("pki"), NOW).expect("opens");
    (dir, pki)
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

fn device() -> Principal {
    "acme:cam-1".parse().expect("a name")
}

/// A request that claims to be the server, for a certificate authority.
fn request(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["server.example".to_owned()]).expect("names");
    params.distinguished_name.push(DnType::CommonName, "server:main");
    params.serialize_request(key).expect("a request").der().to_vec()
}

#[test]
fn the_authority_is_private_and_opened_again() {
    let (dir, pki) = authority();
    let path = dir.path().join("pki");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    pki.renew_server_certificate(&names(&["localhost"]), NOW).expect("made");
    for name in ["root.key", "root.pem", "server.pem"] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
    let again = Pki::open(&path, NOW).expect("opens");
    assert_eq!(again.root(), pki.root());
    std::fs::set_permissions(path.join("root.key"), std::fs::Permissions::from_mode(0o640)).expect("set");
    let e = Pki::open(&path, NOW).expect_err("exposed");
    assert!(e.to_string().contains("chmod"), "{e}");
}

#[test]
fn a_first_start_cut_short_leaves_nothing_behind_and_a_damaged_one_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pki");
    std::fs::create_dir(dir.path().join("pki.new")).expect("made");
    std::fs::write(dir.path().join("pki.new/root.key"), "half").expect("written");
    let pki = Pki::open(&path, NOW).expect("opens");
    assert!(!dir.path().join("pki.new").exists());
    std::fs::write(pki.root_path(), "rubbish").expect("written");
    let e = Pki::open(&path, NOW).expect_err("damaged");
    assert!(e.to_string().contains("root.pem is damaged"), "{e}");
    let (_other_dir, other) = authority();
    std::fs::copy(other.root_path(), pki.root_path()).expect("copied");
    assert!(matches!(Pki::open(&path, NOW), Err(PkiError::Damaged { .. })), "another key's certificate");
}

#[test]
fn a_clock_in_1970_makes_no_authority() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pki");
    assert!(matches!(Pki::open(&path, UnixSeconds(7)), Err(PkiError::Clock(_))));
    assert!(!path.exists());
}

#[test]
fn the_server_certificate_is_renewed_at_two_thirds_and_for_other_names() {
    let (_dir, pki) = authority();
    let two = names(&["localhost", "127.0.0.1", "0:0:0:0:0:0:0:1"]);
    let renew = |names: &[String], at| pki.renew_server_certificate(names, at).expect("works");
    assert!(renew(&two, NOW));
    let served = || CertificateDer::from_pem_file(pki.server_path()).expect("readable");
    let (not_before, not_after) = peer::validity(&served()).expect("readable");
    assert_eq!((not_before, not_after), (NOW.plus(-CLOCK_SKEW_S), NOW.plus(LIFE_S)));
    assert!(!renew(&two, NOW.plus(58 * DAY_S)));
    assert!(renew(&two, NOW.plus(60 * DAY_S)));
    assert!(!renew(&two, NOW.plus(60 * DAY_S)));
    assert!(renew(&names(&["fleet.example"]), NOW.plus(60 * DAY_S)));
    std::fs::write(pki.server_path(), "rubbish").expect("written");
    assert!(renew(&names(&["fleet.example"]), NOW.plus(60 * DAY_S)), "a damaged one is replaced");
    assert!(matches!(pki.renew_server_certificate(&names(&["a b"]), NOW), Err(PkiError::ServerName(_))));
    assert!(matches!(pki.renew_server_certificate(&[], NOW), Err(PkiError::ServerNames(0))));
}

#[test]
fn a_device_certificate_says_who_it_is_whatever_the_request_says() {
    let (_dir, pki) = authority();
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let device_key = DeviceKey::from_request(&request(&key)).expect("a request");
        let issued = pki.issue_device(&device_key, &device(), NOW).expect("issued");
        let peer = Peer::from_certificate(&issued.certificate).expect("readable");
        assert_eq!(peer, Peer { caller: Caller::Device(device()), serial: issued.serial.clone() });
        assert_eq!(peer::public_key(&issued.certificate).expect("readable"), key.public_key_raw());
        assert_eq!(issued.not_after, NOW.plus(LIFE_S));
        let (_, certificate) = X509Certificate::from_der(&issued.certificate).expect("X.509");
        assert!(!certificate.is_ca());
        assert!(certificate.subject_alternative_name().expect("readable").is_none());
        let usage = certificate.extended_key_usage().expect("readable").expect("there").value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert_eq!(certificate.raw_serial().len(), 16);
    }
}

#[test]
fn serials_do_not_repeat_and_have_one_spelling() {
    let (_dir, pki) = authority();
    let key = DeviceKey::from_request(&request(&KeyPair::generate().expect("a key"))).expect("a request");
    let serials: std::collections::HashSet<_> =
        (0..50).map(|_| pki.issue_device(&key, &device(), NOW).expect("issued").serial).collect();
    assert_eq!(serials.len(), 50);
    assert_eq!(Serial::from_hex("00AB").as_str(), "ab");
    assert_eq!(Serial::from_bytes(&[0, 0x0a, 0xbc]).as_str(), "abc");
}

#[test]
fn hostile_requests_are_refused() {
    let key = KeyPair::generate().expect("a key");
    let good = request(&key);
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    assert_eq!(DeviceKey::from_request(&flipped(good.len() - 1)), Err(CsrError::Signature));
    // Somebody else's key in a request of one's own: the subject public key's last bytes.
    let public = key.public_key_raw();
    let at = good.windows(public.len()).position(|w| w == public).expect("in there");
    let mut stolen = good.clone();
    stolen[at..at + public.len()].copy_from_slice(KeyPair::generate().expect("a key").public_key_raw());
    assert_eq!(DeviceKey::from_request(&stolen), Err(CsrError::Signature));
    assert_eq!(DeviceKey::from_request(b"hello"), Err(CsrError::Malformed));
    assert_eq!(DeviceKey::from_request(&[good.clone(), vec![0]].concat()), Err(CsrError::Malformed));
    assert_eq!(DeviceKey::from_request(&vec![0; CSR_BYTES_MAX + 1]), Err(CsrError::TooLong(CSR_BYTES_MAX + 1)));
    // The signed part begins behind the outer header; what names the signature's algorithm is not signed.
    let signed = 3..3 + 3 + usize::from(good[5]);
    for at in 0..good.len() {
        assert!(!signed.contains(&at) || DeviceKey::from_request(&flipped(at)).is_err(), "byte {at}");
        assert!(DeviceKey::from_request(&good[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn certificates_do_not_outlive_the_root() {
    let (_dir, pki) = authority();
    let late = NOW.plus(ROOT_LIFE_S - 10 * DAY_S);
    let key = DeviceKey::from_request(&request(&KeyPair::generate().expect("a key"))).expect("a request");
    assert_eq!(pki.issue_device(&key, &device(), late).expect("issued").not_after, NOW.plus(ROOT_LIFE_S));
}
