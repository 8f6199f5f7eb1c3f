//! Connections that stop being HTTP, or never were and bring their own TLS.

use serde_json::json;
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::assert::record;
use weft_integration::mesh::with_mesh;

#[test]
fn websockets_pass_both_ways() -> anyhow::Result<()> {
    let declared = python_app("declared", &["ws_app.py", "serve", "8080"], "ports: [{port: 8080, protocol: http}]")?;
    let detected = python_app("detected", &["ws_app.py", "serve", "8080"], "ports: [{port: 8080}]")?;
    let (python, script) = (python()?.display().to_string(), script("ws_app.py")?.display().to_string());
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

/// Asks for a tunnel, says a word in it, ends; what comes back. Over HTTP/2 by node, which never speaks HTTP/1 here.
const TUNNEL_BY_NODE: &str = r#"
const [address, authority] = process.argv.slice(1);
const client = require("http2").connect(`http://${address}`);
const stream = client.request({ ":method": "CONNECT", ":authority": authority });
let said = "";
stream.on("response", (head) => { said += `${head[":status"]} ${head["x-weft-error"] ?? ""}`; });
stream.on("data", (data) => { said += data; });
stream.on("close", () => { console.log(said); client.close(); });
stream.on("error", (error) => { said += error; });
stream.end(" a word");
"#;

/// A tunnel leads where its connection was going anyway, and is refused when it is asked for another place (T12).
#[test]
fn connect_reaches_the_captured_destination_only() -> anyhow::Result<()> {
    let declared = python_app("declared", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}]")?;
    let detected = python_app("detected", &["http_app.py", "8080"], "ports: [{port: 8080, servicePort: 80}]")?;
    let (python, raw) = (python()?.display().to_string(), script("raw.py")?.display().to_string());
    with_mesh(&format!("apps:\n{declared}{detected}{}", idle_app("client")), async |mesh| {
        let by_http1 = async |host: &str, port: &str, authority: &str| {
            let request = format!("CONNECT {authority} HTTP/1.1\\r\\nHost: {authority}\\r\\n\\r\\n a word");
            let call = format!("printf '{request}' | {python} {raw} {host} {port} --half-close");
            mesh.stdout("client-0", &["sh", "-c", &call]).await
        };
        let address = format!("{}:8080", mesh.instance("declared-0")?.address);
        for (host, port, authority) in [
            ("declared", "8080", "declared:8080"),
            ("declared", "8080", "declared.default.svc.cluster.local:8080"),
            (&mesh.instance("declared-0")?.address.to_string(), "8080", &address),
            ("detected", "80", "detected:80"),
        ] {
            let said = by_http1(host, port, authority).await?;
            anyhow::ensure!(said.starts_with("HTTP/1.1 200") && said.ends_with(" a word"), "{authority}: {said}");
            record(mesh, "client-0", &[("authority", json!(authority)), ("status", json!(200))]).await?;
        }
        for (host, port, authority) in [
            ("declared", "8080", "www.example.com:443"),
            ("declared", "8080", "detected:80"),
            ("declared", "8080", "declared:22"),
            ("detected", "80", "detected:8080"),
        ] {
            let said = by_http1(host, port, authority).await?;
            let refused = said.starts_with("HTTP/1.1 403 ") && said.contains("x-weft-error: connect_refused");
            anyhow::ensure!(refused, "{authority} at {host}: {said}");
            let fields = [("authority", json!(authority)), ("fault", json!("connect_refused"))];
            record(mesh, "client-0", &fields).await?;
        }
        let by_http2 = async |authority: &str| {
            mesh.stdout("client-0", &["node", "-e", TUNNEL_BY_NODE, "declared:8080", authority]).await
        };
        let said = by_http2("declared:8080").await?;
        anyhow::ensure!(said == "200  a word\n", "{said}");
        let said = by_http2("www.example.com:443").await?;
        anyhow::ensure!(said.starts_with("403 connect_refused"), "{said}");
        let asked = mesh.records("declared-0")?;
        anyhow::ensure!(
            !asked.iter().any(|one| one["authority"] == "www.example.com:443"),
            "nothing reached the server"
        );
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
        // It ends with its input, which therefore ends when the answer is there, or half a minute has passed.
        let call = "out=$(mktemp); \
                    (echo olleh; for _ in $(seq 300); do grep -q hello $out && break; sleep 0.1; done) | \
                    openssl s_client -connect server:8443 -servername own.example >$out 2>&1; cat $out; rm $out";
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
