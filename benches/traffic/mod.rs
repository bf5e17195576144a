//! Traffic for benches and tests of the hot path: round trips as pgbench and a server make them, and a server's greeting.
//!
//! Bytes only, but for the greeting, which needs the socket that it is said on.

use pgsteer::wire::{encode, frame};
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
    encode::parameter_status(&mut out, "session_authorization", "u");
    encode::backend_key_data(&mut out, 1, b"key!");
    encode::ready_for_query(&mut out, b'I');
    socket.write_all(&out).await
}

/// A server that has whatever it is asked for: one row, or the name of its role.
pub async fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    greet(&mut socket).await?;
    let (mut request, mut end) = ([0; 4096], 0);
    let mut out = Vec::new();
    loop {
        match socket.read(&mut request[end..]).await? {
            0 => return Ok(()),
            count => end += count,
        }
        let mut rest = &request[..end];
        while let Ok(Some((found, next))) = frame::split(rest) {
            answer(&mut out, found.tag, found.body);
            rest = next;
        }
        let left = rest.len();
        request.copy_within(end - left..end, 0);
        end = left;
        socket.write_all(&out).await?;
        out.clear();
    }
}

/// What it says to one message.
pub fn answer(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    let row = |out: &mut Vec<u8>| {
        let value = if body.starts_with(b"SELECT session_user") { b'u' } else { b'0' };
        append(out, b'D', &[0, 1, 0, 0, 0, 1, value]);
        encode::command_complete(out, "SELECT 1");
    };
    match tag {
        b'P' => append(out, b'1', b""),
        b'B' => append(out, b'2', b""),
        b'C' => append(out, b'3', b""),
        b'D' => {
            if body.starts_with(b"S") {
                append(out, b't', &[0; 2]);
            }
            append(out, b'T', &[0; 33]);
        }
        b'E' => row(out),
        b'Q' => {
            append(out, b'T', &[0; 33]);
            row(out);
            encode::ready_for_query(out, b'I');
        }
        b'S' => encode::ready_for_query(out, b'I'),
        _ => {}
    }
}

/// What makes the statement that the prepared round trip uses.
pub fn prepare() -> Vec<u8> {
    let mut up = Vec::new();
    append(&mut up, b'P', b"P_0\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0");
    encode::sync(&mut up);
    up
}
