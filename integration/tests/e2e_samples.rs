//! The sample applications without any mesh: what the demo shows is theirs, and they need nothing from it.

use serde_json::Value;
use weft_integration::mesh::with_mesh;

const APPS: &str = "apps:
- {name: store, command: [weft-samples, store], ports: [{port: 6379}], sidecar: false}
- {name: user, command: [weft-samples, user], ports: [{port: 50051}], sidecar: false}
- {name: blog, command: [weft-samples, blog, --version, v2], ports: [{port: 8080}], sidecar: false}
- {name: flaky, command: [weft-samples, user, --flaky], ports: [{port: 50051}], sidecar: false}
- {name: brittle, command: [weft-samples, blog, --user, 'http://flaky:50051'], ports: [{port: 8080}], sidecar: false}
";

#[test]
fn blog_asks_user_who_asks_the_store() -> anyhow::Result<()> {
    with_mesh(APPS, async |mesh| {
        for reads in 1..=3 {
            let text = mesh.stdout("blog-0", &["curl", "-sS", "--fail", "http://blog:8080/articles/2"]).await?;
            let body: Value = serde_json::from_str(&text)?;
            anyhow::ensure!(body["pod"] == "blog-0" && body["version"] == "v2", "{body}");
            anyhow::ensure!(body["article"]["author"]["pod"] == "user-0", "{body}");
            anyhow::ensure!(body["article"]["author"]["reads"] == reads && body["article"]["rating"] == 5, "{body}");
        }
        let code = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"];
        let mut codes = Vec::new();
        for _ in 0..3 {
            codes.push(mesh.stdout("blog-0", &[&code[..], &["http://brittle:8080/articles/1"]].concat()).await?);
        }
        anyhow::ensure!(codes == ["200", "200", "502"], "every third call of a flaky user fails: {codes:?}");
        let missing = mesh.stdout("blog-0", &[&code[..], &["http://blog:8080/articles/99"]].concat()).await?;
        anyhow::ensure!(missing == "404", "{missing}");
        Ok(())
    })
}
