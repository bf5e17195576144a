//! The demonstration from its command line.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::harness::cluster::programs;

fn demo(programs: &pgsteer::demo::programs::Programs) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsteer"));
    command.arg("demo").arg("--bindir").arg(&programs.dir).args(["--seconds", "1"]).kill_on_drop(true);
    command
}

#[tokio::test]
async fn the_demo_loses_nothing() {
    let programs = programs().await;
    let output = tokio::time::timeout(Duration::from_mins(3), demo(&programs).arg("--json").output());
    let output = output.await.expect("the demo ends").unwrap();
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{progress}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for nothing in ["connections_lost", "writes_lost", "writes_doubled", "writes_undead"] {
        assert_eq!(figures[nothing], 0, "{figures}");
    }
    assert!(figures["write_gap_ms"].as_f64().unwrap() < 2000.0, "{figures}");
    assert!(figures["statements_on_primary"].as_u64().unwrap() > 0, "{figures}");
    assert_eq!(figures["statements_on_standbys"].as_object().unwrap().len(), 3, "{figures}");
    for step in ["initdb", "pg_basebackup", "starting pgsteer", "SIGKILL", "serves again"] {
        assert!(progress.contains(step), "{step} is not shown:\n{progress}");
    }
}

#[tokio::test]
async fn a_kept_demo_runs_on_until_it_is_stopped() {
    let programs = programs().await;
    let output = demo(&programs).args(["--keep", "--no-failover"]).output();
    let output = tokio::time::timeout(Duration::from_mins(3), output).await.expect("the demo ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let script =
        said.lines().find_map(|line| line.split("stop and remove it: ").nth(1)).expect("how to stop");
    let folder = Path::new(script).parent().unwrap();
    assert!(!pgsteer::demo::process::in_folder(&folder.join("node1")).is_empty(), "servers run on");
    assert!(!pgsteer::demo::process::in_folder(folder).is_empty(), "the proxy runs on");
    assert!(Command::new("sh").arg(script).status().await.unwrap().success());
    assert!(!folder.exists());
    assert!(pgsteer::demo::process::in_folder(&folder.join("node1")).is_empty());
}
