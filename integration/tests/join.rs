//! A proxy's identity code against a real control plane: joining by token, renewing by certificate, and what each side
//! refuses of the other.

#[cfg(test)]
mod join {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use clap::Parser as _;
    use hyper_util::rt::TokioIo;
    use rcgen::{CertificateParams, KeyPair};
    use tokio::io::copy_bidirectional;
    use tokio::net::{TcpListener, TcpStream, UnixStream};
    use tokio::sync::watch;
    use tonic::transport::{Channel, Endpoint};
    use weft_control_plane::bootstrap::{Cli, Command};
    use weft_control_plane::{serve, shutdown};
    use weft_core::identity::join_token::JoinToken;
    use weft_proto::v1::identity_client::IdentityClient;
    use weft_proto::v1::operator_client::OperatorClient;
    use weft_proto::v1::registry_client::RegistryClient;
    use weft_proto::v1::{
        CreateTokenRequest, DeregisterRequest, IssueRequest, RegisterRequest, RenewRequest, ReportReadinessRequest,
        WorkloadPort,
    };
    use weft_proxy::application::Application;
    use weft_proxy::clock::Clock;
    use weft_proxy::identity::{ControlPlane, Identity, IdentityKeeper, Proof, RenewalStatus, Store, keep_on_disk};
    use weft_proxy::registration::{Registrar, keep_registered};
    use weft_proxy::supervise::Supervisor;

    /// Longer than anything here takes; only a failing test waits for it.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Mesh {
        listen: String,
        socket: std::path::PathBuf,
        plane: serve::Plane,
        _trigger: shutdown::Trigger,
    }

    impl Mesh {
        async fn start(directory: &Path, trust_domain: &str) -> Self {
            let line = ["weft-control-plane", "serve", "--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"];
            let line = line.into_iter().chain(["--mesh-range", "10.0.0.0/8"]);
            let (socket, state) = (directory.join("control.sock"), directory.join("state"));
            let (socket_text, state_text) = (socket.to_str().unwrap(), state.to_str().unwrap());
            let own = ["--socket", socket_text, "--state-dir", state_text, "--trust-domain", trust_domain];
            let line = line.chain(own);
            let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else { panic!("serve") };
            let (trigger, shutdown) = shutdown::channel();
            let running = serve::start(*args, shutdown).await.unwrap();
            let (listen, plane) = (running.listen.to_string(), running.plane.clone());
            tokio::spawn(running.finished());
            Self { listen, socket, plane, _trigger: trigger }
        }

        async fn token(&self) -> JoinToken {
            self.token_of("cart").await
        }

        async fn token_of(&self, account: &str) -> JoinToken {
            let path = self.socket.clone();
            let connect = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://socket");
            let mut operator = OperatorClient::new(endpoint.connect_with_connector(connect).await.unwrap());
            let (namespace, service_account) = ("shop".to_owned(), account.to_owned());
            let request = CreateTokenRequest { namespace, service_account, ttl_seconds: 60, uses: 1 };
            operator.create_token(request).await.unwrap().into_inner().join_token.parse().unwrap()
        }

        async fn join(&self, join_token: JoinToken) -> Arc<Identity> {
            self.run(Proof { join_token: Some(join_token), ..Proof::default() }, None).await.0
        }

        /// A proxy's life up to its first certificate by this control plane, and until that is in the store; with the
        /// number of tries that failed.
        async fn run(&self, proof: Proof, store: Option<&Store>) -> (Arc<Identity>, u64) {
            let (sender, identity) = watch::channel(None);
            let status = Arc::new(RenewalStatus::default());
            let control_plane = ControlPlane::new(&self.listen);
            let (_bundles, told) = watch::channel(None);
            let mut tasks = tokio::task::JoinSet::new();
            if let Some(store) = store {
                tasks.spawn(keep_on_disk(store.clone(), identity.clone(), Arc::clone(&status)));
            }
            let mut keeper =
                IdentityKeeper::new(control_plane, proof, Clock::start(), sender, told, Arc::clone(&status));
            tasks.spawn(async move { match keeper.run().await {} });
            let done = async {
                loop {
                    let held = identity.borrow().clone();
                    if let Some(held) = held
                        && status.issued() > 0
                        && store.is_none_or(|store| {
                            kept_in(store).is_some_and(|kept| kept.certified.cert == held.certified.cert)
                        })
                    {
                        return held;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            (tokio::time::timeout(PATIENCE, done).await.expect("a certificate"), status.failed())
        }
    }

    fn kept_in(store: &Store) -> Option<Identity> {
        store.load(Clock::start().unix_seconds()).unwrap().map(|kept| kept.identity)
    }

    async fn renew(channel: Channel) -> Result<(), tonic::Code> {
        let key = KeyPair::generate().unwrap();
        let csr_der = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let request = IssueRequest { csr_der, join_token: String::new() };
        IdentityClient::new(channel).issue(request).await.map(drop).map_err(|status| status.code())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_proxy_joins_and_renews() {
        let directory = tempfile::tempdir().unwrap();
        let mesh = Mesh::start(directory.path(), "mesh.example").await;
        let token = mesh.token().await;
        let pin = *token.root_sha256();
        let identity = mesh.join(token).await;
        assert_eq!(identity.id.to_string(), "spiffe://mesh.example/ns/shop/sa/cart");
        assert_eq!(identity.not_after - identity.not_before, 24 * 3600 + 120);
        let control_plane = ControlPlane::new(&mesh.listen);
        assert_eq!(renew(control_plane.dial(&identity).await.unwrap()).await, Ok(()));
        let anonymous = control_plane.dial_pinned(pin).await.unwrap();
        assert_eq!(renew(anonymous).await, Err(tonic::Code::Unauthenticated));
    }

    /// The tokens here are good for one use, so a second one would be refused.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_restarted_proxy_needs_no_token() {
        let directory = tempfile::tempdir().unwrap();
        let mesh = Mesh::start(directory.path(), "mesh.example").await;
        let store = Store::new(&directory.path().join("proxy"));
        let run = async |mesh: &Mesh, join_token: Option<&JoinToken>| {
            let kept = store.load(Clock::start().unix_seconds()).unwrap();
            let proof = Proof { join_token: join_token.cloned(), kept, ..Proof::default() };
            let (identity, failed) = mesh.run(proof, Some(&store)).await;
            (identity.id.to_string(), failed, identity.certified.cert.first().cloned())
        };
        let of = |account: &str| format!("spiffe://mesh.example/ns/shop/sa/{account}");
        let cart = mesh.token_of("cart").await;
        let first = run(&mesh, Some(&cart)).await;
        assert_eq!((&first.0, first.1), (&of("cart"), 0));
        for token in [Some(&cart), None, Some(&cart)] {
            let again = run(&mesh, token).await;
            assert_eq!((&again.0, again.1), (&of("cart"), 0), "with {token:?}");
            assert_ne!(again.2, first.2, "renewed at once");
        }
        // Another token says that another identity is wanted; one that is refused changes nothing.
        let web = mesh.token_of("web").await;
        assert_eq!(run(&mesh, Some(&web)).await.0, of("web"));
        let refused = run(&mesh, Some(&cart)).await;
        assert_eq!((refused.0, refused.1), (of("web"), 1));
        // So does one of another mesh, whose root is not this control plane's; it is not taken for the one in use.
        let elsewhere = tempfile::tempdir().unwrap();
        let theirs = Mesh::start(elsewhere.path(), "other.example").await;
        let stranger = theirs.token_of("cart").await;
        for _ in 0..2 {
            let misfit = run(&mesh, Some(&stranger)).await;
            assert_eq!((misfit.0, misfit.1), (of("web"), 1));
        }
        let moved = run(&theirs, Some(&theirs.token_of("cart").await)).await;
        assert_eq!(moved.0, "spiffe://other.example/ns/shop/sa/cart");
    }

    /// Who this proxy is to be is not decided by a control plane that is away for a moment.
    #[tokio::test(flavor = "multi_thread")]
    async fn another_token_outlasts_an_outage() {
        let directory = tempfile::tempdir().unwrap();
        let mut mesh = Mesh::start(directory.path(), "mesh.example").await;
        let store = Store::new(&directory.path().join("proxy"));
        let (cart, web) = (mesh.token_of("cart").await, mesh.token_of("web").await);
        mesh.run(Proof { join_token: Some(cart), ..Proof::default() }, Some(&store)).await;
        let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control_plane = std::mem::replace(&mut mesh.listen, away.local_addr().unwrap().to_string());
        tokio::spawn(async move {
            drop(away.accept().await.unwrap());
            loop {
                let mut client = away.accept().await.unwrap().0;
                let mut server = TcpStream::connect(&control_plane).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
            }
        });
        let kept = store.load(Clock::start().unix_seconds()).unwrap();
        let proof = Proof { join_token: Some(web), kept, joining: Some(store.clone()), ..Proof::default() };
        let (identity, failed) = mesh.run(proof, Some(&store)).await;
        assert_eq!((identity.id.to_string(), failed), ("spiffe://mesh.example/ns/shop/sa/web".into(), 1));
    }

    /// The token is good for one use, and the process ended between the certificate and the disk.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_crash_while_joining_costs_no_token() {
        let directory = tempfile::tempdir().unwrap();
        let mesh = Mesh::start(directory.path(), "mesh.example").await;
        let store = Store::new(&directory.path().join("proxy"));
        let token = mesh.token().await;
        let joining = || Proof { join_token: Some(token.clone()), joining: Some(store.clone()), ..Proof::default() };
        let lost = mesh.run(joining(), None).await;
        assert!(kept_in(&store).is_none(), "nothing but its key is on the disk");
        let again = mesh.run(joining(), Some(&store)).await;
        assert_eq!((&again.0.id, again.1), (&lost.0.id, 0));
        assert_eq!(again.0.private_key, lost.0.private_key, "a use is spent on a key");
        let refused =
            mesh.run(Proof { kept: store.load(Clock::start().unix_seconds()).unwrap(), ..joining() }, None).await;
        assert_eq!((&refused.0.id, refused.1), (&lost.0.id, 0), "renewed: the token is the one in use");
    }

    /// At the start the clock was wrong, so that the identity on disk was no good; its token is spent.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_clock_that_was_wrong_at_the_start_costs_no_token() {
        let directory = tempfile::tempdir().unwrap();
        let mesh = Mesh::start(directory.path(), "mesh.example").await;
        let store = Store::new(&directory.path().join("proxy"));
        let token = mesh.token().await;
        let first = mesh.run(Proof { join_token: Some(token.clone()), ..Proof::default() }, Some(&store)).await.0;
        assert!(store.load(first.not_before - 1).is_err(), "not valid yet");
        let proof = Proof { join_token: Some(token), ignored: Some(store.clone()), ..Proof::default() };
        let (again, refused) = mesh.run(proof, None).await;
        assert_eq!((&again.id, refused), (&first.id, 1));
        assert_ne!(again.certified.cert, first.certified.cert, "renewed");
    }

    /// A token of one mesh must not be shown to another, and an SVID of one opens no door of another.
    #[tokio::test(flavor = "multi_thread")]
    async fn two_meshes_do_not_know_each_other() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ours = Mesh::start(here.path(), "cluster.local").await;
        let theirs = Mesh::start(there.path(), "cluster.local").await;
        let token = theirs.token().await;
        assert!(ControlPlane::new(&ours.listen).dial_pinned(*token.root_sha256()).await.is_err(), "another root");
        assert!(ControlPlane::new(&theirs.listen).dial_pinned(*token.root_sha256()).await.is_ok(), "its own root");
        let identity = theirs.join(token).await;
        assert!(ControlPlane::new(&ours.listen).dial(&identity).await.is_err(), "roots of another mesh");
        assert!(ControlPlane::new(&theirs.listen).dial(&identity).await.is_ok());
    }

    /// Whom a call acts for is what the certificate says, never what a field says.
    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_acts_for_another() {
        use tonic::Code::{Ok as Fine, PermissionDenied};
        let directory = tempfile::tempdir().unwrap();
        let mesh = Mesh::start(directory.path(), "mesh.example").await;
        let cart = mesh.join(mesh.token_of("cart").await).await;
        let web = mesh.join(mesh.token_of("web").await).await;
        let control_plane = ControlPlane::new(&mesh.listen);
        let registry = async |identity: &Identity| RegistryClient::new(control_plane.dial(identity).await.unwrap());
        let (mut of_cart, mut of_web) = (registry(&cart).await, registry(&web).await);
        let instance_id = "cart-1".to_owned();
        let register = RegisterRequest {
            instance_id: instance_id.clone(),
            addresses: vec!["10.1.2.3".to_owned()],
            ..RegisterRequest::default()
        };
        let renew_lease = RenewRequest { instance_id: instance_id.clone() };
        let report = ReportReadinessRequest { instance_id: instance_id.clone(), ready: true };
        let leave = DeregisterRequest { instance_id };
        assert_eq!(code(of_cart.register(register.clone()).await), Fine);
        for (client, expected) in [(&mut of_web, PermissionDenied), (&mut of_cart, Fine)] {
            assert_eq!(code(client.register(register.clone()).await), expected, "register");
            assert_eq!(code(client.renew(renew_lease.clone()).await), expected, "renew");
            assert_eq!(code(client.report_readiness(report.clone()).await), expected, "report");
            assert_eq!(code(client.deregister(leave.clone()).await), expected, "deregister");
        }
        // Nor does anybody register what another holds, or what the mesh does not vouch for.
        let at = |id: &str, address: &str| RegisterRequest {
            instance_id: id.to_owned(),
            addresses: vec![address.to_owned()],
            ports: vec![WorkloadPort { port: 80, ..WorkloadPort::default() }],
            ..RegisterRequest::default()
        };
        assert_eq!(code(of_cart.register(at("cart-2", "10.1.2.4")).await), Fine);
        for (address, expected) in [
            ("10.1.2.4", tonic::Code::AlreadyExists),
            ("192.0.2.1", tonic::Code::InvalidArgument),
            ("240.240.0.1", tonic::Code::InvalidArgument),
            ("10.1.2.5", Fine),
        ] {
            assert_eq!(code(of_web.register(at("web-1", address)).await), expected, "{address}");
        }
        // A certificate for somebody else is not signed; for oneself it is.
        for (asked, expected) in [("web", PermissionDenied), ("cart", Fine)] {
            let mut params = CertificateParams::default();
            let uri = format!("spiffe://mesh.example/ns/shop/sa/{asked}");
            params.subject_alt_names = vec![rcgen::SanType::URI(uri.as_str().try_into().unwrap())];
            let csr_der = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
            let request = IssueRequest { csr_der, join_token: String::new() };
            let mut client = IdentityClient::new(control_plane.dial(&cart).await.unwrap());
            assert_eq!(code(client.issue(request).await), expected, "{asked}");
        }
        // The operators' services are not behind this door.
        let mut operator = OperatorClient::new(control_plane.dial(&cart).await.unwrap());
        assert_ne!(code(operator.create_token(CreateTokenRequest::default()).await), Fine);
    }

    /// An application that refuses every connection is no longer told to others, and told again when it is back.
    #[tokio::test(flavor = "multi_thread")]
    async fn readiness_follows_the_application() {
        let directory = tempfile::tempdir().unwrap();
        let mesh = Mesh::start(directory.path(), "mesh.example").await;
        let identity = mesh.join(mesh.token().await).await;
        let application = Arc::new(Application::default());
        let request = RegisterRequest {
            instance_id: "cart-1".to_owned(),
            addresses: vec!["10.1.2.3".to_owned()],
            ..RegisterRequest::default()
        };
        let (_identity, identity) = watch::channel(Some(identity));
        let (_ready, ready) = watch::channel(true);
        let (stop, stopping) = watch::channel(false);
        let control_plane = ControlPlane::new(&mesh.listen);
        let registrar = Registrar::new(control_plane, identity, request, Arc::clone(&application), ready);
        let keeping = tokio::spawn(keep_registered(Supervisor::default(), registrar, stopping));
        let until = async |expected: Option<bool>, revision: u64| {
            let known = || mesh.plane.registry.read(|index| index.instance("shop", "cart-1").map(|one| one.ready));
            let waiting = async {
                while known() != expected || mesh.plane.store.revision().0 < revision {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(PATIENCE, waiting).await.expect("readiness");
            mesh.plane.store.revision().0
        };
        let revision = until(Some(true), 0).await;
        (0..3).for_each(|_| application.refused());
        // It declares no port, so it counts as back at once: two changes.
        until(Some(true), revision + 2).await;
        stop.send_replace(true);
        until(None, 0).await;
        tokio::time::timeout(PATIENCE, keeping).await.expect("an end").unwrap();
    }

    fn code<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> tonic::Code {
        answer.map_or_else(|status| status.code(), |_| tonic::Code::Ok)
    }
}
