//! Compiles `proto/weft/v1` in Rust (no protoc): messages always, gRPC stubs and the JSON mapping by feature.

use prost::Message as _;

const FILES: [&str; 8] = [
    "weft/v1/resources.proto",
    "weft/v1/identity.proto",
    "weft/v1/discovery.proto",
    "weft/v1/registry.proto",
    "weft/v1/config.proto",
    "weft/v1/diagnostics.proto",
    "weft/v1/operator.proto",
    "weft/v1/names.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let encoded = descriptors.encode_to_vec();
    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure().build_client(grpc).build_server(grpc).compile_fds(descriptors)?;
    if std::env::var_os("CARGO_FEATURE_JSON").is_some() {
        pbjson_build::Builder::new().register_descriptors(&encoded)?.build(&[".weft.v1"])?;
    }
    Ok(())
}
