//! The benchmark itself works: every scenario, with little of everything, through Weft as it is built for tests. What the
//! figures are does not matter here; that no request fails does.

use std::process::Command;

use weft_bench::scenario;

#[test]
fn every_scenario_goes_through_weft_without_a_failed_request() {
    // Some listen on all addresses, so on those of a network of their own. Needs root, as integration/test.sh says.
    let script = r#"ip link set lo up && exec "$0" compare --quick --rounds 1"#;
    let arguments = ["--net", "--", "bash", "-c", script, env!("CARGO_BIN_EXE_weft-bench")];
    let output = Command::new("unshare").args(arguments).output().unwrap();
    let (tables, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    for scenario in scenario::all() {
        let table = tables.split("### ").find(|table| table.starts_with(&format!("{}: ", scenario.name)));
        let table = table.unwrap_or_else(|| panic!("no table of {}: {tables}", scenario.name));
        let line = table.lines().find(|line| line.starts_with("| Weft |")).unwrap_or_else(|| panic!("{table}"));
        let cost: f64 = line.split('|').nth(2).unwrap().trim().replace(',', "").parse().unwrap();
        // Memory of four connections is a difference, which what the start gives back may outweigh.
        assert!(cost > 0.0 || scenario.name.ends_with("-idle"), "{line}");
    }
}
