//! The operator's programs at a change of the primary: told everything, run once, never waited for.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::eventually;
use crate::harness::scene::scene;

/// A script in `folder` that writes its environment to `NAME.PID`, then does what `more` says.
fn script(folder: &Path, name: &str, more: &str) -> String {
    let path = folder.join(name);
    let out = folder.display();
    let text =
        format!("#!/bin/sh\nenv > {out}/tmp.$$ && mv {out}/tmp.$$ {out}/{name}.$$\necho \"$0 $*\"\n{more}\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// The environment of each run of a script.
fn runs(folder: &Path, name: &str) -> Vec<BTreeMap<String, String>> {
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let ours = files.filter(|file| file.file_name().to_string_lossy().starts_with(&format!("{name}.")));
    ours.map(|file| {
        let text = std::fs::read_to_string(file.path()).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    })
    .collect()
}

#[tokio::test]
async fn hooks_are_told_of_a_promotion_once() {
    let folder = tempfile::tempdir().unwrap();
    let (fence, follow) =
        (script(folder.path(), "fence", "exit 3"), script(folder.path(), "follow", "exit 0"));
    let scene = scene(2, |spec| {
        spec.raw("cluster.fence_command", &format!("[{fence:?}]"));
        spec.raw("cluster.on_promotion", &format!("[{follow:?}, \"--all\", \"$HOME; x\"]"));
    })
    .await;
    let oracle = scene.oracle(2, 1).await;
    oracle.more_writes(20).await;
    scene.cluster.n(0).kill().unwrap();
    let (new, _, _) = scene.promote_best().await;
    eventually("the second hook", async || runs(folder.path(), "follow").len() == 1).await;
    scene.proxy.logged("a hook succeeded").await;
    let told = &runs(folder.path(), "follow")[0];
    let (old_port, new_port) =
        (scene.cluster.n(0).port().to_string(), scene.cluster.n(new).port().to_string());
    for (name, value) in [
        ("PGSTEER_HOOK", "on_promotion"),
        ("PGSTEER_REASON", "failover"),
        ("PGSTEER_OLD_PRIMARY", "node1"),
        ("PGSTEER_OLD_PRIMARY_HOST", "127.0.0.1"),
        ("PGSTEER_OLD_PRIMARY_PORT", &old_port),
        ("PGSTEER_NEW_PRIMARY", &format!("node{}", new + 1)),
        ("PGSTEER_NEW_PRIMARY_PORT", &new_port),
        ("PGSTEER_OLD_TIMELINE", "1"),
        ("PGSTEER_TIMELINE", "2"),
        ("PGSTEER_EPOCH", "2"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{name} in {told:?}");
    }
    assert_eq!(runs(folder.path(), "fence")[0]["PGSTEER_OLD_PRIMARY_PORT"], old_port);
    let log = scene.proxy.log_text();
    assert!(log.contains("--all $HOME; x"), "no shell, and its output is logged: {log}");
    assert!(log.contains("a hook did not succeed: failed: exit status: 3"), "{log}");

    // Whatever happens to the topology without a promotion runs nothing.
    scene.cluster.rejoin(scene.cluster.n(0), scene.cluster.n(new)).await.unwrap();
    scene.wait_node(0, "reads", "qualified").await;
    oracle.more_writes(20).await;
    assert_eq!((runs(folder.path(), "fence").len(), runs(folder.path(), "follow").len()), (1, 1));
    let events = scene.proxy.topology().await.unwrap()["events"].to_string();
    assert!(events.contains("on_promotion succeeded") && events.contains("fence_command failed"), "{events}");
    oracle.judge(scene.cluster.n(new)).await;
    scene.finish().await;
}

#[tokio::test]
async fn nothing_waits_for_a_hook() {
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let slow =
        script(folder.path(), "fence", &format!("while ! test -e {}; do sleep 0.05; done", go.display()));
    let follow = script(folder.path(), "follow", "");
    let scene = scene(1, |spec| {
        spec.raw("cluster.fence_command", &format!("[{slow:?}]"));
        spec.raw("cluster.on_promotion", &format!("[{follow:?}]"));
        spec.set("cluster.hook_timeout", "10min");
    })
    .await;
    let oracle = scene.oracle(2, 0).await;
    oracle.more_writes(20).await;
    scene.cluster.n(0).kill().unwrap();
    let (new, _, _) = scene.promote_best().await;
    eventually("the hook runs", async || runs(folder.path(), "fence").len() == 1).await;
    oracle.more_writes(50).await;
    assert!(
        runs(folder.path(), "follow").is_empty(),
        "the old primary is shut out before others follow the new one"
    );
    std::fs::write(&go, "").unwrap();
    eventually("the second hook", async || runs(folder.path(), "follow").len() == 1).await;
    scene.proxy.logged("hook=\"on_promotion\"").await;
    oracle.judge(scene.cluster.n(new)).await;
    scene.finish().await;
}
