//! HTTP/1 that is odd but legal arrives as it is; what smuggles is refused with a record (T10, T12, T14, U19).

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::assert::{record, wait_for};
use weft_integration::mesh::{TestMesh, with_mesh};

fn mesh() -> anyhow::Result<String> {
    let server = python_app("server", &["http_app.py", "8080"], "ports: [{port: 8080, protocol: http}]")?;
    Ok(format!("apps:\n{server}{}", idle_app("client")))
}

/// Sends bytes to the server and returns what comes back.
async fn raw(mesh: &TestMesh, bytes: &[u8], half_close: bool) -> anyhow::Result<String> {
    let (python, script) = (python()?.display().to_string(), script("raw.py")?.display().to_string());
    let mut command = vec![python.as_str(), &script, "server", "8080"];
    if half_close {
        command.push("--half-close");
    }
    let client = mesh.instance("client-0")?;
    let mut child = mesh
        .mesh
        .command(client, &command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or_else(|| anyhow::anyhow!("no stdin"))?;
    stdin.write_all(bytes).await?;
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await??;
    anyhow::ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn odd_but_legal() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        let pipelined =
            b"GET /size/3 HTTP/1.1\r\nHost: a\r\n\r\nGET /size/4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let reply = raw(mesh, pipelined, false).await?;
        anyhow::ensure!(reply.matches("HTTP/1.1 200").count() == 2 && reply.ends_with("xxxx"), "pipelined: {reply}");
        let reply = raw(mesh, b"GET /slow/300 HTTP/1.1\r\nHost: a\r\n\r\n", true).await?;
        anyhow::ensure!(reply.ends_with("slow"), "a FIN after a whole request still gets its reply: {reply}");
        let reply = raw(mesh, b"GET /size/5 HTTP/1.0\r\n\r\n", false).await?;
        anyhow::ensure!(reply.starts_with("HTTP/1.") && reply.ends_with("xxxxx"), "1.0 without Host: {reply}");
        let stream = raw(mesh, b"GET /stream/3/1 HTTP/1.0\r\nHost: a\r\n\r\n", false).await?;
        anyhow::ensure!(!stream.contains("chunked") && stream.ends_with("chunk 2\n"), "no chunks to 1.0: {stream}");
        let chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
            3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n";
        let reply = raw(mesh, chunked, false).await?;
        anyhow::ensure!(
            reply.contains("\"length\": 3") && reply.contains("X-Sum: 1"),
            "chunked with a trailer: {reply}"
        );
        let expecting = b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        let reply = raw(mesh, expecting, false).await?;
        anyhow::ensure!(reply.contains("\"length\": 2"), "100-continue: {reply}");
        let upgrade = b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: whatever\r\n\r\nhello";
        let reply = raw(mesh, upgrade, true).await?;
        anyhow::ensure!(reply.starts_with("HTTP/1.1 101 ") && reply.ends_with("hello"), "upgrade: {reply}");
        Ok(())
    })
}

#[test]
fn what_smuggles_is_refused_and_recorded() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        let cases: [(&str, &str, &str); 10] = [
            (
                "CL and TE",
                "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "400",
            ),
            ("two CL", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", "400"),
            ("obfuscated TE", "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"),
            ("TE in 1.0", "POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
            ("bare LF", "GET /echo HTTP/1.1\nHost: a\n\n", "400"),
            ("space before colon", "GET /echo HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
            ("two Hosts", "GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
            ("no Host", "GET /echo HTTP/1.1\r\n\r\n", "400"),
            ("no HTTP at all", "\u{1}\u{2}\u{3}\u{4} EHLO me\r\n\r\n", "400"),
            ("HTTP/3.0", "GET /echo HTTP/3.0\r\nHost: a\r\n\r\n", "505"),
        ];
        for (name, request, status) in cases {
            let reply = raw(mesh, request.as_bytes(), false).await?;
            anyhow::ensure!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {reply}");
            anyhow::ensure!(reply.to_lowercase().contains("x-weft-error: "), "{name} is explained: {reply}");
        }
        wait_for("a record each", Duration::from_secs(5), || async {
            let records = mesh.records("client-0").map_err(|error| error.to_string())?;
            let refused =
                records.iter().filter(|one| one["fault"] == "bad_request" || one["fault"] == "version_not_supported");
            match refused.count() {
                10 => Ok(()),
                other => Err(format!("{other} records")),
            }
        })
        .await?;
        let large = format!("GET /echo HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "x".repeat(100 << 10));
        let reply = raw(mesh, large.as_bytes(), false).await?;
        anyhow::ensure!(reply.starts_with("HTTP/1.1 431 "), "{}", &reply[..reply.len().min(200)]);
        record(mesh, "client-0", &[("fault", json!("head_too_large")), ("status", json!(431))]).await?;
        let many = format!("GET /echo HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(250));
        let reply = raw(mesh, many.as_bytes(), false).await?;
        anyhow::ensure!(reply.starts_with("HTTP/1.1 431 "), "{}", &reply[..reply.len().min(200)]);
        anyhow::ensure!(
            !mesh.records("server-0")?.iter().any(|one| one["path"] == "/echo"),
            "nothing reached the server"
        );
        Ok(())
    })
}

#[test]
fn heads_at_the_bound_and_answers_without_a_body() -> anyhow::Result<()> {
    with_mesh(&mesh()?, async |mesh| {
        let status = |reply: &str| reply.split(' ').nth(1).unwrap_or_default().to_owned();
        // 96 KiB, line ends and the empty line included.
        let base = "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: \r\n\r\n".len();
        for (bytes, expected) in [(96 << 10, "200"), ((96 << 10) + 1, "431")] {
            let filler = "x".repeat(bytes - base);
            let head = format!("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {filler}\r\n\r\n");
            anyhow::ensure!(head.len() == bytes, "{}", head.len());
            let reply = raw(mesh, head.as_bytes(), false).await?;
            anyhow::ensure!(status(&reply) == expected, "{bytes} bytes: {}", &reply[..reply.len().min(200)]);
        }
        for (fields, expected) in [(200, "200"), (201, "431")] {
            let head =
                format!("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n", "A: b\r\n".repeat(fields - 2));
            let reply = raw(mesh, head.as_bytes(), false).await?;
            anyhow::ensure!(status(&reply) == expected, "{fields} fields: {}", &reply[..reply.len().min(200)]);
        }
        // HEAD keeps the length that GET would have; 204 and 304 have neither body nor length; all keep the connection.
        let requests = b"HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\nGET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n\
            GET /status/304 HTTP/1.1\r\nHost: a\r\n\r\nGET /size/2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let reply = raw(mesh, requests, false).await?;
        let answers: Vec<&str> = reply.split("HTTP/1.1 ").skip(1).collect();
        let [head, none, unchanged, last] = answers.as_slice() else { anyhow::bail!("{reply}") };
        anyhow::ensure!(head.starts_with("200") && head.to_lowercase().contains("content-length: "), "HEAD: {head}");
        anyhow::ensure!(head.ends_with("\r\n\r\n"), "HEAD has no body: {head}");
        for (answer, status) in [(none, "204"), (unchanged, "304")] {
            let fields = answer.to_lowercase();
            anyhow::ensure!(answer.starts_with(status) && answer.ends_with("\r\n\r\n"), "{status}: {answer}");
            anyhow::ensure!(!fields.contains("content-length") && !fields.contains("transfer-encoding"), "{answer}");
        }
        anyhow::ensure!(last.ends_with("xx"), "{last}");
        // Somebody else's client finds no body either, and uses the connection of HTTP/1.1 again. (Over HTTP/2 without
        // TLS, curl 7.88 breaks every connection that it uses again, whoever serves.)
        let told = "[%{http_code} %{size_download} %{num_connects}]";
        for (method, path, status) in
            [("--head", "echo", 200), ("--get", "status/204", 204), ("--get", "status/304", 304)]
        {
            let (url, next) = (format!("http://server:8080/{path}"), "http://server:8080/size/2");
            let bounds = ["-sS", "--max-time", "20", "-o", "/dev/null", "-w", told];
            let first = [&["curl", method], &bounds[..], &[&url]].concat();
            let twice = [&first[..], &["--next"], &bounds[..], &[next]].concat();
            let said = mesh.stdout("client-0", &twice).await?;
            anyhow::ensure!(said == format!("[{status} 0 1][200 2 0]"), "{path}: {said}");
            let said = mesh.stdout("client-0", &[&first[..], &["--http2-prior-knowledge"]].concat()).await?;
            anyhow::ensure!(said == format!("[{status} 0 1]"), "{path} over HTTP/2: {said}");
        }
        Ok(())
    })
}
