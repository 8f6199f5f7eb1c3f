//! Connections that stop being HTTP, or never were and bring their own TLS.

use serde_json::json;
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::assert::record;
use weft_integration::mesh::with_mesh;

#[test]
fn websockets_pass_both_ways() -> anyhow::Result<()> {
    let declared = python_app("declared", &["websocket.py", "serve", "8080"], "ports: [{port: 8080, protocol: http}]")?;
    let detected = python_app("detected", &["websocket.py", "serve", "8080"], "ports: [{port: 8080}]")?;
    let (python, script) = (python()?.display().to_string(), script("websocket.py")?.display().to_string());
    with_mesh(&format!("apps:\n{declared}{detected}{}", idle_app("client")), async |mesh| {
        for host in ["declared", "detected"] {
            let url = format!("ws://{host}:8080/chat");
            let said = mesh.stdout("client-0", &[&python, &script, "call", &url]).await?;
            anyhow::ensure!(said.trim() == "echoed", "{host}: {said}");
            let fields = [("path", json!("/chat")), ("status", json!(101)), ("direction", json!("inbound"))];
            record(mesh, &format!("{host}-0"), &fields).await?;
        }
        Ok(())
    })
}

/// TLS of the application's own is relayed untouched, inside the mesh's.
#[test]
fn own_tls_of_the_application_is_relayed() -> anyhow::Result<()> {
    let serve = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=own.example -days 1 \
                 -keyout /tmp/$WEFT_INSTANCE.$$.key -out /tmp/$WEFT_INSTANCE.$$.crt 2>/dev/null; \
                 openssl s_server -quiet -accept 8443 -rev -key /tmp/$WEFT_INSTANCE.$$.key -cert /tmp/$WEFT_INSTANCE.$$.crt";
    let server = format!("- {{name: server, command: {}, ports: [{{port: 8443}}]}}\n", json!(serve));
    with_mesh(&format!("apps:\n{server}{}", idle_app("client")), async |mesh| {
        let call = "(echo olleh; sleep 1) | openssl s_client -connect server:8443 -servername own.example 2>&1";
        let said = mesh.stdout("client-0", &["sh", "-c", call]).await?;
        anyhow::ensure!(
            said.contains("CN = own.example") || said.contains("CN=own.example"),
            "its own certificate: {said}"
        );
        anyhow::ensure!(said.contains("hello"), "{said}");
        let fields = [("kind", json!("connection")), ("direction", json!("inbound")), ("alpn", json!("weft-tcp/1"))];
        record(mesh, "server-0", &fields).await?;
        Ok(())
    })
}
