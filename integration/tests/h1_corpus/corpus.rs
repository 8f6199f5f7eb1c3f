//! Both runs of every exchange.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weft_integration::raw::{Backend, Pair, Plan, Protocol, Wire};

use crate::script::Exchange;
use crate::{judge, rules, run, script};

/// Exchanges at the same time.
const TOGETHER: usize = 16;

/// Requests to one sidecar that have a connection of their own each (`PoolLimits::own_links_max`).
const OWN_LINKS: usize = 4;

/// How an exchange's messages come from one sidecar to the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    /// On a connection of its own.
    Own,
    /// On a stream, because all connections of their own are in use.
    Shared,
}

/// Requests under way: client and server of each.
async fn under_way(port: u16, backend: &Backend) -> Vec<[Wire; 2]> {
    let mut held = Vec::new();
    for _ in 0..OWN_LINKS {
        let mut client = Wire::connect(port).await.unwrap();
        client.send(b"GET /held HTTP/1.1\r\nHost: held\r\n\r\n").await.unwrap();
        let mut server = backend.accept().await.unwrap();
        server.read_until(|received| received.ends_with(b"\r\n\r\n")).await.unwrap();
        held.push([client, server]);
    }
    held
}

async fn check(exchange: &Exchange, port: u16, backend: &Backend, link: Link) -> Result<(), String> {
    let own = Backend::bind().await.unwrap();
    let direct = run::run(exchange, own.port(), &own, judge::direct_ends(exchange)).await;
    if let Some(problem) = judge::vacuous(exchange, &direct) {
        return Err(problem);
    }
    let rules = judge::permitted(exchange);
    let _held = if link == Link::Shared { under_way(port, backend).await } else { Vec::new() };
    let mesh = run::run(exchange, port, backend, judge::mesh_ends(exchange, &rules)).await;
    if let Some(differences) = judge::differences(&direct, &mesh, &rules) {
        let hint = judge::sufficient(&direct, &mesh).map(|rules| format!("\n  permit {} would do", rules.join(" ")));
        return Err(differences + &hint.unwrap_or_default());
    }
    let needless = rules.iter().filter(|rule| !rule.by_chance).find(|rule| {
        let others: Vec<_> = rules.iter().copied().filter(|other| other.name != rule.name).collect();
        judge::differences(&direct, &mesh, &others).is_none()
    });
    needless.map_or(Ok(()), |rule| Err(format!("  needs no permit {}", rule.name)))
}

/// Every exchange on a port of its own, so that no connection is left to it by another.
async fn check_all(exchanges: Vec<Exchange>, protocol: Protocol, link: Link) -> Vec<String> {
    let (ports, count) = (vec![protocol; exchanges.len()], u32::try_from(exchanges.len()).unwrap());
    // Links are counted by each worker.
    let plan = Plan { arguments: &["--workers", "1"], ..Plan::mesh(&ports) };
    let pair = Arc::new(Pair::start(plan).await.unwrap());
    let all = Arc::clone(&pair);
    let turns = Arc::new(Semaphore::new(TOGETHER));
    let mut running = JoinSet::new();
    for (at, exchange) in exchanges.into_iter().enumerate() {
        let (pair, turns) = (Arc::clone(&pair), Arc::clone(&turns));
        running.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            let door = &pair.doors[at];
            let checked = check(&exchange, door.port, &door.backend, link).await;
            checked.map_err(|problem| format!("== {}\n{problem}", exchange.name))
        });
    }
    let mut failed: Vec<String> = running.join_all().await.into_iter().filter_map(Result::err).collect();
    failed.sort();
    let shared = all.outbound.metric("weft_pool_links_total", &[]).await.unwrap();
    match link {
        Link::Own => assert!(shared < 1.0, "{shared} links for {count} exchanges on shared connections"),
        Link::Shared => {
            assert!(shared >= f64::from(count), "{shared} links for {count} exchanges on shared connections")
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_are_what_they_are_without_the_mesh() {
    let failed = check_all(script::load(), Protocol::Http, Link::Own).await;
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_are_what_they_are_where_http_is_detected() {
    let failed = check_all(script::load(), Protocol::Detected, Link::Own).await;
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_are_what_they_are_where_sidecars_share_a_connection() {
    let failed = check_all(script::load(), Protocol::Http, Link::Shared).await;
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn the_corpus_is_large_and_has_no_dead_permission() {
    let exchanges = script::load();
    assert!(exchanges.len() >= 200, "{} exchanges", exchanges.len());
    let mut names = HashSet::new();
    for exchange in &exchanges {
        assert!(names.insert(&exchange.name), "{} occurs twice", exchange.name);
        judge::permitted(exchange);
    }
    let used: HashSet<&String> = exchanges.iter().flat_map(|exchange| &exchange.permits).collect();
    let dead = rules::RULES.iter().filter(|rule| !used.iter().any(|name| *name == rule.name));
    let dead: Vec<&str> = dead.map(|rule| rule.name).collect();
    assert!(dead.is_empty(), "rules that no exchange needs: {dead:?}");
}
