//! Status without a proxy: texts, URLs and answers that are none.

use tokio::net::TcpListener;

use super::*;
use crate::admin::fixture;

#[tokio::test]
async fn the_table_is_for_people() {
    let report = Report::of(&fixture::state());
    insta::assert_snapshot!(table(&report, None), @r"
    writes go to 127.0.0.1:5432; epoch 1, timeline 3, 0 sessions

    node            role     health  reads           lag ms  lag bytes  timeline  lsn        sessions  backends  statements
    127.0.0.1:5432  primary  up      is the primary  -       -          3         2/16B3748  0         0         1
    127.0.0.1:5433  standby  up      qualified       1.5     220        3         2/16B3748  0         0         0

    127.0.0.1:5432: out of recovery on timeline 3
    ");
    let mut later = report.clone();
    later.uptime_s += 2.0;
    later.nodes[0].statements += 500;
    later.alarms.push("two primaries".to_owned());
    let text = table(&later, Some(&report));
    assert!(text.contains("statements/s\n") && text.contains("250\n"), "{text}");
    assert!(text.ends_with("ALARM: two primaries\n"), "{text}");
    // A proxy that was restarted meanwhile counts from zero again.
    assert!(table(&report, Some(&later)).contains("1\n"));
}

#[test]
fn urls_are_checked_before_they_are_used() {
    assert_eq!(authority("http://127.0.0.1:9632/").unwrap(), "127.0.0.1:9632");
    assert_eq!(authority("http://[::1]:9632").unwrap(), "[::1]:9632");
    for bad in [
        "",
        "127.0.0.1:9632",
        "https://a:1",
        "http://a",
        "http://a:0",
        "http://a:x",
        "http://a/b:1",
        "http://a\r\nb:1",
    ] {
        assert!(authority(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_address_to_ask_is_that_of_the_settings_on_this_host() {
    let mut settings = Settings::for_tests();
    for (http, url) in [
        ("0.0.0.0:1", "http://127.0.0.1:1"),
        ("[::]:2", "http://[::1]:2"),
        ("10.0.0.1:3", "http://10.0.0.1:3"),
    ] {
        settings.admin.http = Some(http.parse().unwrap());
        assert_eq!(url_of(&settings).unwrap(), url);
    }
    settings.admin.http = None;
    assert!(matches!(url_of(&settings), Err(StatusError::Off)));
}

#[test]
fn answers_are_split_and_cut_off_ones_refused() {
    assert_eq!(split(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"), Some((200, b"hi".to_vec())));
    assert_eq!(split(b"HTTP/1.0 503 No\r\n\r\n"), Some((503, Vec::new())));
    for bad in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    ] {
        assert_eq!(split(bad), None, "{}", String::from_utf8_lossy(bad));
    }
}

#[tokio::test]
async fn errors_say_what_to_do() {
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = healthcheck(&format!("http://{address}")).await.unwrap_err().to_string();
    assert!(error.contains("no proxy answers at") && error.contains("is pgsteer running"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (answered, alien) = tokio::join!(report(&url), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    });
    let ((), error) = (alien, answered.unwrap_err().to_string());
    assert!(error.contains("does not answer like pgsteer"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_listener_does_not_hang_the_command() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let error = healthcheck(&url).await.unwrap_err().to_string();
    assert!(error.contains("no answer within 5 s"), "{error}");
}
