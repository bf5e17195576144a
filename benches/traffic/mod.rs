//! Traffic for benches and tests of the hot path: round trips as pgbench and a server make them, and a server's greeting.
//!
//! Bytes only, but for the greeting, which needs the socket that it is said on.

use pgsteer::wire::encode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn append(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    encode::message(out, tag, |to| to.extend_from_slice(body));
}

/// What the client sends and what the server answers, as pgbench and a server do it.
pub fn round_trip(mode: &str) -> (Vec<u8>, Vec<u8>) {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    match mode {
        "simple" => encode::query(&mut up, "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;"),
        "extended" => {
            append(&mut up, b'P', b"\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0");
            append(&mut down, b'1', b"");
        }
        _ => {}
    }
    if mode != "simple" {
        let name = if mode == "prepared" { "P_0" } else { "" };
        append(&mut up, b'B', format!("\0{name}\0\0\0\0\x01\0\0\0\x044711\0\0").as_bytes());
        append(&mut up, b'D', b"P\0");
        append(&mut up, b'E', b"\0\0\0\0\0");
        encode::sync(&mut up);
        append(&mut down, b'2', b"");
    }
    append(&mut down, b'T', &[0; 33]);
    append(&mut down, b'D', b"\0\x01\0\0\0\x010");
    encode::command_complete(&mut down, "SELECT 1");
    encode::ready_for_query(&mut down, b'I');
    (up, down)
}

/// Logs anybody in.
pub async fn greet(socket: &mut TcpStream) -> std::io::Result<()> {
    let length = socket.read_u32().await?;
    let mut packet = vec![0; length as usize - 4];
    socket.read_exact(&mut packet).await?;
    let mut out = Vec::new();
    encode::auth_ok(&mut out);
    encode::parameter_status(&mut out, "in_hot_standby", "off");
    encode::parameter_status(&mut out, "standard_conforming_strings", "on");
    encode::backend_key_data(&mut out, 1, b"key!");
    encode::ready_for_query(&mut out, b'I');
    socket.write_all(&out).await
}
