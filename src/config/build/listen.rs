//! `[[listen]]`: where clients connect.

use std::time::Duration;

use super::super::raw::Section;
use super::super::settings::{ClientTls, ClientTlsMode, Listen, ListenAddress, ListenRole};
use super::super::units::parse_listen_address;
use super::WAIT_OR_NONE;
use super::cluster::both_or_none;

/// Listeners, each with a socket and an accept loop.
const MAX_LISTENERS: usize = 64;

pub(super) fn build(root: &Section<'_>) -> Vec<Listen> {
    let mut listeners: Vec<Listen> = Vec::new();
    for block in root.blocks("listen") {
        let Some(one) = listener(&block) else { continue };
        if let Some(other) = listeners.iter().find(|other| collide(&one.address, &other.address)) {
            let (here, there) = (&one.address, &other.address);
            let text = if other.role == one.role {
                format!("{here} is taken by the listener {there}; remove one")
            } else {
                format!(
                    "{here} is taken by the listener {there} of another role; give each role its own port"
                )
            };
            block.error("address", text);
        }
        listeners.push(one);
    }
    if listeners.len() > MAX_LISTENERS {
        root.error(
            "listen",
            format!("there are {} listeners; at most {MAX_LISTENERS} are opened", listeners.len()),
        );
    }
    if listeners.is_empty() {
        listeners.push(Listen::default());
    }
    listeners
}

fn listener(block: &Section<'_>) -> Option<Listen> {
    if !block.has("address") {
        block.error("address", "is missing; write address = \"127.0.0.1:6432\"");
    }
    let roles = [("primary", ListenRole::Primary), ("standby", ListenRole::Standby)];
    let role = block.choice("role", ListenRole::Primary, &roles);
    let max_lag = block.duration("max_lag", Duration::ZERO, WAIT_OR_NONE);
    let tls = tls(&block.block("tls"));
    let port = block.has("port").then(|| block.number("port", 0, 0..=usize::from(u16::MAX)));
    let address = block.parsed("address", parse_listen_address)?;
    if matches!(address, ListenAddress::Unix { .. }) && tls.mode == ClientTlsMode::Require {
        block
            .block("tls")
            .error("mode", "\"require\" shuts every client out of a unix socket; remove it there");
    }
    let port = port.and_then(|port| u16::try_from(port).ok());
    Some(Listen { address: with_port(block, address, port), role, max_lag, tls })
}

/// `port` is for addresses that name none.
fn with_port(block: &Section<'_>, mut address: ListenAddress, wanted: Option<u16>) -> ListenAddress {
    let (ListenAddress::Tcp { port, .. } | ListenAddress::Unix { port, .. }) = &mut address;
    if let Some(wanted) = wanted {
        if wanted != *port && block.text("address").is_some_and(|text| has_port(&text)) {
            block.error("port", format!("is {wanted}, but address names port {port}; keep one of them"));
        }
        *port = wanted;
    }
    address
}

fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

fn tls(tls: &Section<'_>) -> ClientTls {
    let modes =
        [("off", ClientTlsMode::Off), ("allow", ClientTlsMode::Allow), ("require", ClientTlsMode::Require)];
    let built = ClientTls {
        mode: tls.choice("mode", ClientTlsMode::Off, &modes),
        cert: tls.readable("cert"),
        key: tls.readable("key"),
        client_ca: tls.readable("client_ca"),
    };
    let name = if built.mode == ClientTlsMode::Require { "require" } else { "allow" };
    match built.mode {
        ClientTlsMode::Off if built.client_ca.is_some() || built.cert.is_some() => {
            tls.warning(
                "mode",
                "is \"off\", so the certificates are not used; write \"allow\" or \"require\"",
            );
        }
        ClientTlsMode::Allow | ClientTlsMode::Require if built.cert.is_none() && built.key.is_none() => {
            tls.error(
                "mode",
                format!("is \"{name}\" without a certificate; add cert = \"FILE\" and key = \"FILE\""),
            );
        }
        _ => both_or_none(tls, built.cert.is_some(), built.key.is_some()),
    }
    built
}

/// Whether binding the second would fail. Port 0 is another port each time.
fn collide(one: &ListenAddress, other: &ListenAddress) -> bool {
    let any = |host: &str| ["*", "0.0.0.0", "::"].contains(&host);
    match (one, other) {
        (ListenAddress::Tcp { port: 0, .. }, _) => false,
        (ListenAddress::Tcp { host, port }, ListenAddress::Tcp { host: taken, port: same }) => {
            port == same && (host == taken || any(host) || any(taken))
        }
        _ => one == other,
    }
}
