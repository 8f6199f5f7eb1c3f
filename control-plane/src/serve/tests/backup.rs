//! Backups made while serving, and what restoring refuses.

use bytes::Bytes;
use weft_proto::v1::BackupRequest;

use super::*;
use crate::backup::{BackupError, restore};
use crate::store::{Expect, Key};

/// The backup's bytes as an operator gets them.
async fn back_up(mesh: &Mesh) -> Vec<u8> {
    let mut stream = mesh.operator().await.backup(BackupRequest {}).await.unwrap().into_inner();
    let mut whole = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        assert!(!chunk.data.is_empty() && chunk.data.len() <= 64 * 1024);
        whole.extend(chunk.data);
    }
    whole
}

async fn put(mesh: &Mesh, at: &str, value: Vec<u8>) {
    mesh.plane.store.put(Key::new(at).unwrap(), Bytes::from(value), Expect::Any).await.unwrap();
}

async fn value(mesh: &Mesh, at: &str) -> Option<Vec<u8>> {
    let found = mesh.plane.store.get(&Key::new(at).unwrap()).await.unwrap();
    found.map(|found| found.value.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_the_mesh_back() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    put(&mesh, "note/shop/cart", vec![3; 300_000]).await;
    let (held, token) = (mesh.join().await, mesh.token(1).await);
    let file = directory.path().join("backup");
    std::fs::write(&file, back_up(&mesh).await).unwrap();
    put(&mesh, "note/shop/cart", b"changed".to_vec()).await;
    put(&mesh, "later", b"lost".to_vec()).await;
    let state = mesh.plane.args.state.directory();
    let (lost, root) = (mesh.plane.store.revision(), mesh.plane.authority.root_sha256());
    assert!(matches!(restore(&file, &state, true), Err(BackupError::InUse { .. })));
    assert_eq!(value(&mesh, "later").await, Some(b"lost".to_vec()), "the running one is untouched");
    mesh.stop().await;
    assert!(matches!(restore(&file, &state, false), Err(BackupError::Exists { .. })));
    // Into the same place by force, and into an empty one without.
    restore(&file, &state, true).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    restore(&file, &elsewhere.path().join("state"), false).unwrap();
    for place in [directory.path(), elsewhere.path()] {
        let mesh = Mesh::start(place).await;
        assert_eq!(mesh.plane.authority.root_sha256(), root);
        assert_eq!(value(&mesh, "note/shop/cart").await, Some(vec![3; 300_000]));
        assert_eq!(value(&mesh, "later").await, None);
        assert!(mesh.plane.store.revision().0 > lost.0 + 1_000_000, "no revision means two things");
        let csr_der = csr(&KeyPair::generate().unwrap(), &[]);
        let renewing = IssueRequest { csr_der: csr_der.clone(), join_token: String::new() };
        mesh.connect(Some(&held)).await.issue(renewing).await.unwrap();
        let joining = IssueRequest { csr_der, join_token: token.secret().to_owned() };
        let revived = code(mesh.connect(None).await.issue(joining).await).map(drop);
        assert_eq!(revived, Err(Code::Unauthenticated), "tokens do not come back");
        mesh.stop().await;
    }
    assert!(state.join("store.redb.replaced").exists());
    // Once more: what the first restoration gave out is not given out again.
    let revision = async || {
        let mesh = Mesh::start(directory.path()).await;
        let found = mesh.plane.store.get(&Key::new("note/shop/cart").unwrap()).await.unwrap().unwrap();
        mesh.stop().await;
        found.revision
    };
    let first = revision().await;
    restore(&file, &state, true).unwrap();
    assert!(revision().await > first, "living proxies take only what is newer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_restored_by_the_printed_command() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    put(&mesh, "a", b"1".to_vec()).await;
    let file = directory.path().join("backup");
    std::fs::write(&file, back_up(&mesh).await).unwrap();
    let state = mesh.plane.args.state.directory();
    mesh.stop().await;
    std::fs::write(state.join("store.redb"), vec![0; 9000]).unwrap();
    let refused = Mesh::try_start(directory.path()).await.map(drop).unwrap_err().to_string();
    let command = format!("weft-control-plane restore BACKUP-FILE --state-dir {} --force", state.display());
    assert!(refused.contains(&command), "{refused}");
    let line = command.replace("BACKUP-FILE", file.to_str().unwrap());
    let Command::Restore(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!("restore") };
    restore(&args.file, &args.state.directory(), args.force).unwrap();
    let mesh = Mesh::start(directory.path()).await;
    assert_eq!(value(&mesh, "a").await, Some(b"1".to_vec()));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_backup_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(directory.path()).await;
    put(&mesh, "a", vec![1; 5000]).await;
    let good = back_up(&mesh).await;
    mesh.stop().await;
    let (file, target) = (directory.path().join("backup"), directory.path().join("target"));
    let check = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        assert!(matches!(restore(&file, &target, true), Err(BackupError::Damaged { .. })));
        assert!(!target.exists(), "nothing was made of it");
    };
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..300 {
        let mut damaged = good.clone();
        damaged[random.usize(..good.len())] ^= 1 << random.u8(..8);
        check(&damaged);
    }
    for _ in 0..100 {
        check(&good[..random.usize(..good.len())]);
    }
    std::fs::write(&file, &good).unwrap();
    restore(&file, &target, false).unwrap();
}
