//! `[auth]` with its users and rules.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::hba::{HbaRule, Method, NameMatch, RuleKind};
use super::super::raw::Section;
use super::super::settings::{
    Auth, AuthSource, ClientTlsMode, Listen, Monitor, Settings, StaticSecret, StaticUser,
};
use super::{WAIT, not_yet};
use crate::scram::verifier::Verifier;

/// Entries of the cache of secrets; each has some hundred bytes.
const MAX_CACHE: usize = 10_000_000;

pub(super) fn build(auth: &Section<'_>, monitor: &Monitor) -> Auth {
    let d = Auth::default();
    let sources = [
        ("query", AuthSource::Query),
        ("static", AuthSource::Static),
        ("trust", AuthSource::Trust),
        ("passthrough", AuthSource::Passthrough),
    ];
    let source = auth.choice("source", d.source, &sources);
    if source == AuthSource::Passthrough {
        not_yet(auth, "source", "\"passthrough\"", "write \"query\" or \"static\"");
    }
    let query_user = auth.some_text("query_user").unwrap_or_else(|| monitor.user.clone());
    let same_role = query_user == monitor.user;
    let query_password = auth.secret("query_password");
    let query = auth.text_or("query", &d.query);
    if !query.contains("$1") {
        auth.error("query", format!("has no $1 for the user's name; write it like \"{}\"", d.query));
    }
    Auth {
        source,
        query,
        query_password: query_password.or_else(|| monitor.password.clone().filter(|_| same_role)),
        query_user,
        query_database: auth.some_text("query_database").unwrap_or_else(|| monitor.database.clone()),
        users: users(auth),
        rules: auth.blocks("rule").iter().filter_map(rule).collect(),
        cache_size: auth.number("cache_size", d.cache_size, 1..=MAX_CACHE),
        cache_lifetime: auth.duration("cache_lifetime", d.cache_lifetime, WAIT),
    }
}

/// What `[auth]` needs from other blocks.
pub(super) fn needs(auth: &Section<'_>, settings: &Settings) {
    let built = &settings.auth;
    if built.source == AuthSource::Static && !auth.has("user") {
        auth.error("source", "is \"static\", but nobody is listed; add [[auth.user]] or write \"query\"");
    }
    let cert_possible = |one: &Listen| one.tls.mode != ClientTlsMode::Off && one.tls.client_ca.is_some();
    let cert_possible = settings.listen.iter().any(cert_possible);
    for block in auth.blocks("rule") {
        let is = |name: &str, word: &str| block.text(name).is_some_and(|text| text == word);
        if is("method", "cert") && !cert_possible {
            block.error(
                "method",
                "\"cert\" needs client certificates; add client_ca to the tls of [[listen]]",
            );
        }
        if is("method", "password") && !is("type", "hostssl") {
            block.warning("method", "\"password\" may be sent in clear; write type = \"hostssl\"");
        }
    }
}

fn users(auth: &Section<'_>) -> Vec<StaticUser> {
    let mut users: Vec<StaticUser> = Vec::new();
    for block in auth.blocks("user") {
        let Some(user) = user(&block) else { continue };
        if users.iter().any(|other| other.name == user.name) {
            block.error("name", format!("\"{}\" is listed twice; remove one", user.name));
        } else {
            users.push(user);
        }
    }
    users
}

fn user(block: &Section<'_>) -> Option<StaticUser> {
    let name = block.some_text("name");
    if name.is_none() {
        block.error("name", "is missing; write name = \"ROLE\"");
    }
    let given = ["password", "password_file", "verifier"].map(|one| block.given(one));
    let secret = match given {
        [false, false, true] => verifier(block),
        [false, false, false] => {
            block.error("password", "is missing; write password, password_file or verifier");
            None
        }
        [_, _, true] => {
            block.error("verifier", "is given beside a password; keep one of them");
            None
        }
        _ => block.secret("password").map(StaticSecret::Password),
    };
    let server_password = block.secret("server_password");
    Some(StaticUser { name: name?, secret: secret?, server_password })
}

fn verifier(block: &Section<'_>) -> Option<StaticSecret> {
    block.parsed("verifier", |text| {
        if is_md5(text) {
            return Ok(StaticSecret::Md5(text.to_owned()));
        }
        // The text is a secret, so the message does not repeat it.
        let wrong = |_| {
            "is neither \"SCRAM-SHA-256$…\" nor \"md5\" and 32 hex digits; take rolpassword from pg_authid"
                .to_owned()
        };
        Verifier::parse(text).map(StaticSecret::Verifier).map_err(wrong)
    })
}

fn is_md5(text: &str) -> bool {
    text.strip_prefix("md5")
        .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn rule(block: &Section<'_>) -> Option<HbaRule> {
    let kinds = [
        ("all", RuleKind::All),
        ("local", RuleKind::Local),
        ("host", RuleKind::Host),
        ("hostssl", RuleKind::HostSsl),
        ("hostnossl", RuleKind::HostNoSsl),
    ];
    let methods =
        [Method::ScramSha256, Method::Md5, Method::Password, Method::Cert, Method::Trust, Method::Reject]
            .map(|method| (method.name(), method));
    let kind = block.choice("type", RuleKind::All, &kinds);
    let address = block.parsed("address", parse_network).flatten();
    if kind == RuleKind::Local && address.is_some() {
        block.error("address", "is given for type \"local\"; a unix socket has none, remove it");
    }
    let databases = names(block, "database", true);
    let users = names(block, "user", false);
    if !block.has("method") {
        block.error("method", "is missing; write method = \"scram-sha-256\"");
        return None;
    }
    let method = block.choice("method", Method::Reject, &methods);
    if method == Method::Cert && kind != RuleKind::HostSsl {
        block.error("method", "\"cert\" works only inside TLS; write type = \"hostssl\"");
    }
    Some(HbaRule { kind, databases, users, address, method })
}

fn names(block: &Section<'_>, name: &str, is_database: bool) -> Vec<NameMatch> {
    let Some(list) = block.list(name) else { return vec![NameMatch::All] };
    if list.is_empty() {
        block.error(name, "is an empty list, which matches nobody; write \"all\" or names");
    }
    let one = |(_, text): (_, String)| match text.as_str() {
        "all" => NameMatch::All,
        "sameuser" if is_database => NameMatch::SameUser,
        _ => {
            let special =
                text.starts_with(['+', '/', '@']) || (is_database && text == "samerole") || text.is_empty();
            if special {
                let known = if is_database {
                    "\"all\", \"sameuser\" and plain names"
                } else {
                    "\"all\" and plain names"
                };
                block.error(name, format!("\"{text}\" is not understood; write only {known}"));
            }
            NameMatch::Exactly(text)
        }
    };
    list.into_iter().map(one).collect()
}

/// `all`, an address, or a network. Bits behind the mask are a slip that would let in more than was meant.
fn parse_network(text: &str) -> Result<Option<IpNet>, String> {
    if text == "all" {
        return Ok(None);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Some(IpNet::from(address)));
    }
    let example = "\"all\", \"10.1.2.3\" or \"10.0.0.0/8\"";
    match text.parse::<IpNet>() {
        Err(_) => Err(format!("\"{text}\" is not an address or network; write it like {example}")),
        Ok(net) if net.trunc() != net => {
            Err(format!("\"{text}\" has bits set behind its mask; write \"{}\"", net.trunc()))
        }
        Ok(net) => Ok(Some(net)),
    }
}
