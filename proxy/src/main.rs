//! `weft-proxy`: the sidecar and gateway of the Weft service mesh.

fn main() {}
