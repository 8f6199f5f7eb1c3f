//! gRPC with a client and a server that we did not write.

use serde_json::json;
use weft_integration::apps::{idle_app, python, python_app, script};
use weft_integration::assert::record;
use weft_integration::mesh::with_mesh;

#[test]
fn all_four_kinds_of_call_with_trailers_and_errors() -> anyhow::Result<()> {
    let declared = python_app(
        "declared",
        &["grpc_app.py", "serve", "50051"],
        "ports: [{port: 50051, protocol: grpc}], replicas: 2",
    )?;
    let detected = python_app("detected", &["grpc_app.py", "serve", "50052"], "ports: [{port: 50052}]")?;
    let (python, script) = (python()?.display().to_string(), script("grpc_app.py")?.display().to_string());
    with_mesh(&format!("apps:\n{declared}{detected}{}", idle_app("client")), async |mesh| {
        let declared =
            ["declared:50051", "unary", "server-stream", "client-stream", "bidi", "error", "missing", "deadline"];
        for arguments in [declared.as_slice(), &["detected:50052", "all"]] {
            mesh.stdout("client-0", &[&[python.as_str(), &script, "call"], arguments].concat()).await?;
        }
        // Of trailers as of trailers-only answers the record tells the status: OK, FAILED_PRECONDITION, UNIMPLEMENTED.
        for status in [0, 9, 12] {
            record(mesh, "client-0", &[("grpc_status", json!(status)), ("status", json!(200))]).await?;
        }
        Ok(())
    })
}

#[test]
fn calls_end_as_they_do_without_the_mesh() -> anyhow::Result<()> {
    let declared =
        python_app("declared", &["grpc_conduct.py", "serve", "50061"], "ports: [{port: 50061, protocol: grpc}]")?;
    let limited = python_app("limited", &["grpc_conduct.py", "serve", "50062", "limits"], "ports: [{port: 50062}]")?;
    let (python, script) = (python()?.display().to_string(), script("grpc_conduct.py")?.display().to_string());
    with_mesh(&format!("apps:\n{declared}{limited}{}", idle_app("client")), async |mesh| {
        let cases = ["statuses", "metadata", "deadline", "cancel", "stop-early", "large", "compression", "pings"];
        mesh.stdout("client-0", &[&[python.as_str(), &script, "call", "declared:50061"], cases.as_slice()].concat())
            .await?;
        mesh.stdout("client-0", &[&python, &script, "call", "limited:50062", "many"]).await?;
        // 5: NOT_FOUND, in the trailers after messages as in an answer of trailers only.
        record(mesh, "client-0", &[("grpc_status", json!(5)), ("bytes_sent", json!(0))]).await?;
        record(mesh, "client-0", &[("grpc_status", json!(5)), ("bytes_sent", json!(18))]).await?;
        Ok(())
    })
}
