//! Programs of strangers, unchanged, by the example that users are shown.

use weft_integration::mesh::with_mesh;

const STRANGERS: &str = include_str!("../../deploy/examples/dev/strangers.yaml");

#[test]
fn python_redis_and_node_work_unchanged() -> anyhow::Result<()> {
    with_mesh(STRANGERS, async |mesh| {
        let listing =
            mesh.stdout("shell-0", &["curl", "-sS", "--fail", "--max-time", "20", "http://web:8000/"]).await?;
        anyhow::ensure!(listing.contains("Directory listing"), "{listing}");
        let hello = mesh.stdout("shell-0", &["curl", "-sS", "--fail", "--max-time", "20", "http://node:3000/"]).await?;
        anyhow::ensure!(hello == "hello from node\n", "{hello}");
        let pong = mesh.stdout("shell-0", &["redis-cli", "-h", "redis", "PING"]).await?;
        anyhow::ensure!(pong.trim() == "PONG", "{pong}");
        Ok(())
    })
}
