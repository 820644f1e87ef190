//! Compiles `proto/` without protoc.

use std::path::PathBuf;

const PROTO_ROOT: &str = "../../proto";
const FILES: [&str; 7] = [
    "meridian/v1/kv.proto",
    "meridian/v1/admin.proto",
    "meridian/v1/faults.proto",
    "meridian/internal/v1/journal.proto",
    "meridian/internal/v1/adjudicator.proto",
    "meridian/internal/v1/meta.proto",
    "meridian/internal/v1/storage.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    let descriptors = protox::compile(FILES, [PROTO_ROOT])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("descriptors.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
