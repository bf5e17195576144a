//! Which standby a read-only session gets: the far slower one none, those of the proxy's own zone first.

use std::time::Duration;

use crate::harness::eventually;
use crate::harness::link::Mode;
use crate::harness::scene::{Scene, linked_scene};

/// How many of so many sessions, one after the other, each standby gets; in the order of the nodes.
async fn spread(scene: &Scene, sessions: usize) -> [usize; 2] {
    let mut counts = [0; 2];
    for _ in 0..sessions {
        let port = scene.raw_standby().await.value("SHOW port").await;
        let index = (1..=2).find(|index| scene.cluster.n(*index).port().to_string() == port);
        counts[index.expect("no standby has this port") - 1] += 1;
    }
    counts
}

async fn figure(scene: &Scene, index: usize, name: &str) -> f64 {
    scene.node(index).await[name].as_f64().unwrap_or_else(|| panic!("no {name} of node {index}"))
}

#[tokio::test]
async fn a_far_slower_standby_gets_no_sessions_while_another_serves() {
    let scene = linked_scene(2, |spec| {
        spec.set("route.slow_start", "0s");
    })
    .await;
    scene.links[2].set_both(Mode::Delay(Duration::from_millis(40)));
    eventually("both to be known", async || {
        spread(&scene, 1).await;
        scene.node(1).await["latency_ms"].is_number() && scene.node(2).await["latency_ms"].is_number()
    })
    .await;
    assert!(figure(&scene, 2, "latency_ms").await > 75.0);
    // What a session needs once made the first ones slow everywhere.
    eventually("the near one to be fast", async || {
        spread(&scene, 5).await;
        figure(&scene, 1, "latency_ms").await < 15.0
    })
    .await;
    let [near, far] = spread(&scene, 30).await;
    assert!(far <= 2, "{near} and {far}");
    let shares = [figure(&scene, 1, "read_share").await, figure(&scene, 2, "read_share").await];
    let share = |index: usize| format!("pgsteer_node_read_share{{node=\"node{}\"}}", index + 1);
    let metrics = scene.proxy.metrics().await;
    assert!(
        shares[1] < 0.25 && shares[0] > 0.75 && figure(&scene, 0, "read_share").await == 0.0,
        "{shares:?}"
    );
    assert!(metrics[&share(1)] > 0.75 && metrics[&share(2)] < 0.25);
    assert!(metrics["pgsteer_node_latency_seconds{node=\"node3\"}"] > 0.075);
    scene.finish().await;
}

#[tokio::test]
async fn standbys_of_the_own_zone_come_first_while_one_serves() {
    let scene = linked_scene(2, |spec| {
        spec.node(1, "zone = \"east\"").node(2, "zone = \"west\"");
        spec.set("route.zone", "west").set("route.slow_start", "0s");
    })
    .await;
    assert_eq!(spread(&scene, 10).await, [0, 10]);
    scene.links[2].cut();
    scene.wait_node(2, "health", "down").await;
    assert_eq!(spread(&scene, 5).await, [5, 0]);
    scene.links[2].mend();
    scene.wait_node(2, "reads", "qualified").await;
    // On a busy machine its first statements may have made it seem far slower, until that is forgotten.
    eventually("all to be there again", async || spread(&scene, 10).await == [0, 10]).await;
    scene.finish().await;
}
