//! Who gets which certificate, and who gets none.

use rcgen::{ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_buys_exactly_one_svid() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let token = mesh.token(1).await;
    let key = KeyPair::generate().unwrap();
    let ask_with = async |key: &KeyPair, uris: &[&str], secret: &str| {
        let request = IssueRequest { csr_der: csr(key, uris), join_token: secret.to_owned() };
        code(mesh.connect(None).await.issue(request).await)
    };
    let ask = async |uris: &[&str], secret: &str| ask_with(&key, uris, secret).await;
    let wrong = token.secret().replace(|digit: char| digit.is_ascii_digit(), "0");
    assert_eq!(ask(&[], "").await.map(drop), Err(Code::Unauthenticated), "no proof");
    assert_eq!(ask(&[], &wrong).await.map(drop), Err(Code::Unauthenticated), "a wrong token");
    assert_eq!(ask(&[], "x").await.map(drop), Err(Code::Unauthenticated), "no token at all");
    let other = ["spiffe://cluster.local/ns/shop/sa/admin"];
    assert_eq!(ask(&other, token.secret()).await.map(drop), Err(Code::PermissionDenied), "somebody else");
    // None of these refusals has spent the use.
    let issued = ask(&[CART], token.secret()).await.unwrap().into_inner();
    let again = ask(&[CART], token.secret()).await.unwrap().into_inner();
    check_svid(&mesh, &key, &again);
    let other = KeyPair::generate().unwrap();
    let spent = ask_with(&other, &[CART], token.secret()).await.map(drop);
    assert_eq!(spent, Err(Code::Unauthenticated), "spent on another key");
    check_svid(&mesh, &key, &issued);
    mesh.stop().await;
}

/// Contents of an SVID, against the SPIFFE X509-SVID specification and what proxies rely on.
fn check_svid(mesh: &Mesh, key: &KeyPair, issued: &IssueResponse) {
    let bundle = issued.bundle.clone().unwrap();
    assert_eq!(bundle.trust_domain, "cluster.local");
    assert_eq!(bundle.roots_der, [mesh.plane.authority.root().to_vec()]);
    assert_eq!(issued.chain_der.len(), 2, "leaf and issuing certificate, no root");
    let (_, leaf) = X509Certificate::from_der(&issued.chain_der[0]).unwrap();
    assert_eq!(crate::ca::peer_cert::only_uri(&leaf).unwrap(), CART);
    assert!(leaf.subject().iter().next().is_none(), "no meaning in the subject");
    assert!(!leaf.is_ca());
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    assert_eq!(leaf.public_key().subject_public_key.data, key.public_key_raw());
    assert!(leaf.raw_serial().len() >= 16);
    let (from, to) = crate::ca::peer_cert::validity(&leaf);
    let now = SystemTime::now();
    let near = |time: SystemTime, wanted: SystemTime| {
        let off = time.duration_since(wanted).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(60), "{off:?} off");
    };
    near(from, now - Duration::from_secs(120));
    near(to, now + Duration::from_secs(24 * 3600));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let token = mesh.token(1).await;
    let good = csr(&KeyPair::generate().unwrap(), &[]);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for (csr_der, what) in
        [(vec![], "empty"), (forged, "forged"), (csr(&p384, &[]), "P-384"), (vec![0; 17 * 1024], "long")]
    {
        let request = IssueRequest { csr_der, join_token: token.secret().to_owned() };
        assert_eq!(code(mesh.connect(None).await.issue(request).await).map(drop), Err(Code::InvalidArgument), "{what}");
    }
    let request = IssueRequest { csr_der: vec![0; 100 * 1024], join_token: token.secret().to_owned() };
    assert!(mesh.connect(None).await.issue(request).await.is_err(), "beyond the bound on messages");
    let request = IssueRequest { csr_der: good, join_token: token.secret().to_owned() };
    mesh.connect(None).await.issue(request).await.unwrap();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_are_counted_under_contention() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let token = mesh.token(3).await;
    let client = mesh.connect(None).await;
    let asking = (0..10).map(|_| {
        let mut client = client.clone();
        let csr_der = csr(&KeyPair::generate().unwrap(), &[]);
        let request = IssueRequest { csr_der, join_token: token.secret().to_owned() };
        async move { code(client.issue(request).await).map(drop) }
    });
    let answers = futures_util::future::join_all(asking).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3, "{answers:?}");
    // Their keys may come again for a while; then the token goes.
    let tokens = &mesh.plane.tokens;
    assert_eq!(tokens.sweep(SystemTime::now() + Duration::from_secs(300)).await, Ok(0));
    assert_eq!(tokens.sweep(SystemTime::now() + Duration::from_secs(900)).await, Ok(1));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_renews_itself_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let held = mesh.join().await;
    let key = KeyPair::generate().unwrap();
    let renew = async |credentials: &Credentials, uris: &[&str]| {
        let request = IssueRequest { csr_der: csr(&key, uris), join_token: String::new() };
        code(mesh.connect(Some(credentials)).await.issue(request).await)
    };
    let other = ["spiffe://cluster.local/ns/shop/sa/admin"];
    assert_eq!(renew(&held, &other).await.map(drop), Err(Code::PermissionDenied));
    let renewed = renew(&held, &[CART]).await.unwrap().into_inner();
    check_svid(&mesh, &key, &renewed);
    let renewed = credentials(&key, &renewed);
    renew(&renewed, &[]).await.unwrap();
    // The mesh's own names are out of reach even for a certificate that carries one.
    let system = signed(&mesh, |_| {}, &["spiffe://cluster.local/ns/weft-system/sa/control-plane"]);
    assert_eq!(renew(&system, &[]).await.map(drop), Err(Code::PermissionDenied));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_our_valid_svids_come_in() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    // In TLS 1.3 the client learns of the refusal with its first read, so a call must be made.
    let enters = async |credentials: &Credentials| {
        let Ok(channel) = mesh.try_connect(Some(credentials), [127, 0, 0, 1]).await else { return false };
        let csr_der = csr(&KeyPair::generate().unwrap(), &[]);
        let request = IssueRequest { csr_der, join_token: String::new() };
        IdentityClient::new(channel).issue(request).await.is_ok()
    };
    assert!(enters(&signed(&mesh, |_| {}, &[CART])).await, "a good one");
    let hours = |hours: i64| {
        let by = Duration::from_secs(hours.unsigned_abs() * 3600);
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        epoch + if hours > 0 { now + by } else { now - by }
    };
    let expired = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (hours(-2), hours(-1));
    };
    let future = |params: &mut CertificateParams| params.not_before = hours(1);
    let no_usage = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let signing = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    };
    assert!(!enters(&signed(&mesh, expired, &[CART])).await, "expired");
    assert!(!enters(&signed(&mesh, future, &[CART])).await, "not yet valid");
    assert!(!enters(&signed(&mesh, no_usage, &[CART])).await, "not for clients");
    assert!(!enters(&signed(&mesh, signing, &[CART])).await, "a signing certificate");
    assert!(!enters(&signed(&mesh, |_| {}, &[])).await, "no name");
    assert!(!enters(&signed(&mesh, |_| {}, &[CART, CART])).await, "two names");
    assert!(!enters(&signed(&mesh, |_| {}, &["spiffe://cluster.local/shop/cart"])).await, "another shape");
    assert!(!enters(&signed(&mesh, |_| {}, &["spiffe://other.example/ns/shop/sa/cart"])).await, "another domain");
    assert!(!enters(&self_signed()).await, "self-signed");
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Mesh::start(elsewhere.path()).await;
    assert!(!enters(&other.join().await).await, "another mesh of the same name");
    other.stop().await;
    mesh.stop().await;
}

/// A leaf signed by the mesh's own issuing key, as it ought to be but for what `alter` does.
fn signed(mesh: &Mesh, alter: impl FnOnce(&mut CertificateParams), uris: &[&str]) -> Credentials {
    let path = mesh.plane.args.state.directory().join("ca/issuing.pem");
    let pem = std::fs::read_to_string(path).unwrap();
    let issuing = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&issuing, KeyPair::from_pem(&pem).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf(alter, uris).signed_by(&key, &issuer).unwrap();
    Credentials { chain: vec![leaf.der().clone(), issuing], key_der: key.serialize_der() }
}

fn self_signed() -> Credentials {
    let key = KeyPair::generate().unwrap();
    let leaf = leaf(|_| {}, &[CART]).self_signed(&key).unwrap();
    Credentials { chain: vec![leaf.der().clone()], key_der: key.serialize_der() }
}

fn leaf(alter: impl FnOnce(&mut CertificateParams), uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    alter(&mut params);
    params
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_limited_per_source() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let token = mesh.token(1).await;
    let csr_der = csr(&KeyPair::generate().unwrap(), &[]);
    let ask = async |from: [u8; 4], secret: &str| {
        let request = IssueRequest { csr_der: csr_der.clone(), join_token: secret.to_owned() };
        let mut client = IdentityClient::new(mesh.try_connect(None, from).await.unwrap());
        code(client.issue(request).await).map(drop)
    };
    for _ in 0..crate::tokens::attempts::FAILURES_PER_SOURCE_MAX {
        assert_eq!(ask([127, 0, 0, 2], &"0".repeat(64)).await, Err(Code::Unauthenticated));
    }
    assert_eq!(ask([127, 0, 0, 2], &"0".repeat(64)).await, Err(Code::ResourceExhausted));
    assert_eq!(ask([127, 0, 0, 3], &"0".repeat(64)).await, Err(Code::Unauthenticated), "another source");
    assert_eq!(ask([127, 0, 0, 2], token.secret()).await, Ok(()), "who has the right one is not punished");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_for_proper_names_only() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let check = async |namespace: &str, account: &str, ttl_seconds: u32, expected: Result<(), Code>| {
        let request =
            CreateTokenRequest { namespace: namespace.into(), service_account: account.into(), ttl_seconds, uses: 1 };
        let made = code(mesh.operator().await.create_token(request).await).map(drop);
        assert_eq!(made, expected, "{namespace} {account} {ttl_seconds}");
    };
    check("shop", "cart", 0, Ok(())).await;
    check("weft-system", "control-plane", 0, Err(Code::PermissionDenied)).await;
    check("weft-system", "x", 0, Err(Code::PermissionDenied)).await;
    check("", "cart", 0, Err(Code::InvalidArgument)).await;
    check("shop", "", 0, Err(Code::InvalidArgument)).await;
    check("Shop", "cart", 0, Err(Code::InvalidArgument)).await;
    check("shop", "a/b", 0, Err(Code::InvalidArgument)).await;
    check("shop", "-a", 0, Err(Code::InvalidArgument)).await;
    check(&"s".repeat(64), "cart", 0, Err(Code::InvalidArgument)).await;
    check("shop", "cart", 31 * 24 * 3600, Err(Code::InvalidArgument)).await;
    let stored = mesh.plane.store.list("token/").await.unwrap().entries;
    assert_eq!(stored.len(), 1);
    let token = mesh.token(1).await;
    for entry in mesh.plane.store.list("").await.unwrap().entries {
        let text = String::from_utf8(entry.value.to_vec()).unwrap();
        assert!(!text.contains(token.secret()) && !entry.key.as_str().contains(token.secret()), "stored hashed only");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_tokens_are_refused_and_swept() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    let token = mesh.token(5).await;
    let soon = SystemTime::now() + Duration::from_secs(3599);
    assert_eq!(mesh.plane.tokens.sweep(soon - Duration::from_secs(60)).await, Ok(0));
    let proof = mesh.plane.tokens.prove(token.secret(), Ipv4Addr::LOCALHOST.into()).await.unwrap();
    assert_eq!(proof.id.to_string(), CART);
    assert_eq!(mesh.plane.tokens.sweep(soon + Duration::from_secs(60)).await, Ok(1));
    let csr_der = csr(&KeyPair::generate().unwrap(), &[]);
    let request = IssueRequest { csr_der, join_token: token.secret().to_owned() };
    assert_eq!(code(mesh.connect(None).await.issue(request).await).map(drop), Err(Code::Unauthenticated));
    mesh.stop().await;
}
