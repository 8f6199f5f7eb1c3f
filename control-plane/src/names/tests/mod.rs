//! Names against a real DNS server, store and registry.

mod server;

use std::path::Path;

use clap::Parser as _;

use super::*;
use crate::bootstrap::{Cli, Command};
use crate::names::resolver::Asker;
use crate::resource::{Stored, key};
use crate::shutdown::{self, Trigger};
use crate::store::Key;
use crate::store::embedded::Embedded;
use server::{A, AAAA, Reply, Server};

/// Longer than anything here takes; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

fn texts(answer: &Answer) -> Vec<String> {
    answer.addresses().map(|address| address.to_string()).collect()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// What a service named `db` of namespace `shop` is asked for and served by.
struct Bench {
    store: Arc<dyn Store>,
    registry: Registry,
    names: Option<Names>,
    counts: Arc<LookupCounts>,
    _end: Trigger,
    shutdown: Shutdown,
}

impl Bench {
    async fn start(directory: &Path, asker: Asker) -> Self {
        let line = ["weft-control-plane", "serve", "--state-dir", directory.to_str().unwrap()];
        let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else { panic!("not serve") };
        let store: Arc<dyn Store> = Arc::new(Embedded::open(directory).unwrap());
        let (registry, from) = Registry::load(Arc::clone(&store), &args).await.unwrap();
        let (end, shutdown) = shutdown::channel();
        tokio::spawn(registry.clone().follow(from, shutdown.clone()));
        let counts = Arc::<LookupCounts>::default();
        let names = Names::new(Arc::clone(&store), registry.clone(), Source::fixed(asker), Arc::clone(&counts));
        Self { store, registry, names: Some(names), counts, _end: end, shutdown }
    }

    fn service() -> Key {
        key("v1", "Service", "shop", "db").unwrap()
    }

    fn answer() -> Key {
        Key::new("dns/shop/db").unwrap()
    }

    async fn apply(&self, external_name: &str) {
        let spec = serde_json::json!({"type": "ExternalName", "externalName": external_name, "ports": [{"port": 80}]});
        let stored = Stored { spec, ..Stored::default() };
        let value = serde_json::to_vec(&stored).unwrap();
        let revision = self.store.put(Self::service(), value.into(), Expect::Any).await.unwrap();
        assert!(self.registry.caught_up(revision).await);
    }

    async fn delete(&self) {
        let revision = self.store.delete(Self::service(), Expect::Any).await.unwrap();
        assert!(self.registry.caught_up(revision).await);
    }

    /// Every name is asked for once, however long it may be kept.
    async fn round(&mut self) {
        let names = self.names.as_mut().unwrap();
        let mut lookups = Lookups::new();
        names.look(Instant::now()).await;
        names.start_due(Instant::now() + schedule::LONGEST * 2, &mut lookups).await;
        while let Some(ended) = lookups.join_next().await {
            let (name, outcome) = ended.unwrap();
            names.take(&name, outcome).await;
        }
    }

    async fn stored(&self) -> Option<(Vec<IpAddr>, u64)> {
        let stored = self.store.get(&Self::answer()).await.unwrap()?;
        let (_, addresses): (String, Vec<IpAddr>) = serde_json::from_slice(&stored.value).unwrap();
        self.registry.caught_up(stored.revision).await;
        Some((addresses, stored.revision.0))
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let waiting = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never came: {what}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_change_of_the_set_is_written_and_a_failure_takes_nothing_away() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut bench = Bench::start(directory.path(), server.asker("", &[])).await;
    bench.apply("db.example").await;
    server.set_v4("db.example", &[2, 1], 30);
    bench.round().await;
    let first = bench.stored().await.unwrap();
    assert_eq!(first.0, addresses(&["192.0.2.1", "192.0.2.2"]));

    let same = async |bench: &mut Bench, why: &str| {
        bench.round().await;
        assert_eq!(bench.stored().await.unwrap(), first, "{why}");
    };
    server.set_v4("db.example", &[1, 2], 60);
    same(&mut bench, "another order").await;
    server.set_v4("db.example", &[2], 60);
    same(&mut bench, "a part of it").await;
    server.set_v4("db.example", &[1], 60);
    same(&mut bench, "another part of it").await;
    for (failed, reply) in [Reply::Code(2), Reply::Code(3), Reply::Silence, Reply::Noise].iter().enumerate() {
        assert_eq!((bench.counts.failed.value(), bench.counts.answered.value()), (failed as u64, 4));
        server.set_both("db.example", reply);
        same(&mut bench, &format!("{reply:?}")).await;
        assert_eq!(bench.counts.failing(), 1);
    }
    server.set_v4("db.example", &[1, 2, 3], 60);
    bench.round().await;
    assert_eq!(bench.stored().await.unwrap().0, addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
    assert_eq!(bench.counts.failing(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_left_is_served_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut bench = Bench::start(directory.path(), server.asker("", &[])).await;
    bench.apply("db.example").await;
    server.set_v4("db.example", &[1], 30);
    bench.round().await;
    server.set_v4("db.example", &[2], 30);
    bench.round().await;
    assert_eq!(bench.stored().await.unwrap().0, addresses(&["192.0.2.1", "192.0.2.2"]));
    bench.round().await;
    assert_eq!(bench.stored().await.unwrap().0, addresses(&["192.0.2.2"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_that_ends_after_its_service_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut bench = Bench::start(directory.path(), server.asker("", &[])).await;
    bench.apply("db.example").await;
    server.set_v4("db.example", &[1], 30);
    let names = bench.names.as_mut().unwrap();
    let mut lookups = Lookups::new();
    names.look(Instant::now()).await;
    names.start_due(Instant::now(), &mut lookups).await;
    let (name, outcome) = lookups.join_next().await.unwrap().unwrap();
    bench.delete().await;
    // Whoever schedules has not noticed yet: the answer is written, and deleted with the next look.
    bench.names.as_mut().unwrap().take(&name, outcome).await;
    assert!(bench.stored().await.is_some());
    bench.names.as_mut().unwrap().look(Instant::now()).await;
    assert_eq!(bench.stored().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_come_and_go_leave_no_answer_and_a_change_elsewhere_asks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut bench = Bench::start(directory.path(), server.asker("", &[])).await;
    // From a process that ended between the deletion of a service and that of its answer.
    let orphan = Key::new("dns/shop/gone").unwrap();
    bench.store.put(orphan.clone(), r#"["gone.example", ["192.0.2.9"]]"#.into(), Expect::Any).await.unwrap();
    server.set_v4("db.example", &[1], 3600);
    tokio::spawn(bench.names.take().unwrap().keep(bench.shutdown.clone()));
    for _ in 0..5 {
        bench.apply("db.example").await;
        bench.until("an answer", async || bench.stored().await.is_some()).await;
        let asked = server.asked().len();
        for _ in 0..20 {
            bench.store.put(Key::new("token/x").unwrap(), "{}".into(), Expect::Any).await.unwrap();
        }
        bench.delete().await;
        bench.until("a deletion", async || bench.stored().await.is_none()).await;
        assert_eq!(server.asked().len(), asked, "nothing was due");
    }
    assert_eq!(bench.store.get(&orphan).await.unwrap(), None);
    assert_eq!(bench.store.list("dns/").await.unwrap().entries, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_of_a_name_is_served_without_asking_again() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let mut bench = Bench::start(directory.path(), server.asker("", &[])).await;
    server.set_v4("db.example", &[1], 3600);
    tokio::spawn(bench.names.take().unwrap().keep(bench.shutdown.clone()));
    bench.apply("db.example").await;
    bench.until("an answer", async || bench.stored().await.is_some()).await;
    let stored = bench.store.get(&Bench::service()).await.unwrap().unwrap();
    bench.store.put(key("v1", "Service", "shop", "twin").unwrap(), stored.value, Expect::Any).await.unwrap();
    let twin = Key::new("dns/shop/twin").unwrap();
    bench.until("its answer", async || bench.store.get(&twin).await.unwrap().is_some()).await;
    assert_eq!(server.asked(), ["db.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_mean_what_the_files_of_the_machine_say() {
    let server = Server::start().await;
    server.set_v4("db.shop.example", &[1], 30);
    server.set_v4("db.example", &[2], 30);
    server.set_v4("deep.name", &[3], 30);
    let asker = server.asker("192.0.2.77 cache Mixed.Case # here\n2001:db8::7 cache\n", &["shop.example", "example"]);
    let check = async |name: &str, expected: &[&str]| {
        assert_eq!(texts(&asker.lookup(name).await.unwrap()), expected, "{name}");
    };
    check("cache", &["192.0.2.77", "2001:db8::7"]).await;
    check("mixed.case.", &["192.0.2.77"]).await;
    check("db", &["192.0.2.1"]).await;
    check("db.example.", &["192.0.2.2"]).await;
    check("deep.name", &["192.0.2.3"]).await;
    check("192.0.2.5", &["192.0.2.5"]).await;
    assert_eq!(asker.lookup("db.").await, Err(LookupError::NoAddress), "a full name is not searched for");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ttl_is_the_shortest_on_the_way() {
    let server = Server::start().await;
    let both = |reply: Reply| server.set_both("db.example", &reply);
    both(Reply::Alias(7, addresses(&["192.0.2.1"]), 300));
    server.set("db.example", AAAA, Reply::Addresses(vec![], 1));
    let answer = server.asker("", &[]).lookup("db.example").await.unwrap();
    assert_eq!((texts(&answer), answer.ttl), (vec!["192.0.2.1".to_owned()], Duration::from_secs(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_family_can_fail_alone_and_useless_addresses_are_no_answer() {
    let server = Server::start().await;
    let asker = server.asker("", &[]);
    server.set("half.example", A, Reply::Addresses(addresses(&["192.0.2.1", "127.0.0.1"]), 30));
    server.set("half.example", AAAA, Reply::Code(2));
    let answer = asker.lookup("half.example").await.unwrap();
    assert_eq!((texts(&answer), answer.v6), (vec!["192.0.2.1".to_owned()], None));
    server.set_v4("self.example", &[], 30);
    server.set("self.example", A, Reply::Addresses(addresses(&["127.0.0.1", "0.0.0.0", "224.0.0.1"]), 30));
    assert!(matches!(asker.lookup("self.example").await, Err(LookupError::Unusable(all)) if all.len() == 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (hosts, resolv_conf) = (directory.path().join("hosts"), directory.path().join("resolv.conf"));
    let mut source = Source::of_files(&hosts, &resolv_conf);
    for text in ["192.0.2.1 db", "192.0.2.1 db\n192.0.2.2 db"] {
        std::fs::write(&hosts, text).unwrap();
        let answer = source.asker().await.unwrap().lookup("db").await.unwrap();
        assert_eq!(answer.addresses().count(), text.lines().count());
        std::fs::write(&resolv_conf, format!("search {} example\n", text.len())).unwrap();
    }
}
