//! Who may log in from where and how: rules as in `pg_hba.conf`, the first match wins.
//!
//! One login attempt in, the method to use out. It must not know how a method works.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Which kinds of connection a rule is about (`type` of `[[auth.rule]]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// Unix sockets and TCP.
    All,
    /// Unix sockets only.
    Local,
    /// TCP, with or without TLS.
    Host,
    /// TCP with TLS.
    HostSsl,
    /// TCP without TLS.
    HostNoSsl,
}

/// How a client proves who it is (`method` of `[[auth.rule]]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By the client's certificate (mutual TLS).
    Cert,
    /// Salted MD5; a SCRAM exchange if what is stored is a SCRAM verifier, as in PostgreSQL.
    Md5,
    /// The password itself is sent; only good inside TLS.
    Password,
    /// Refused at once.
    Reject,
    /// SCRAM-SHA-256, with channel binding where there is TLS.
    ScramSha256,
    /// No proof asked.
    Trust,
}

impl Method {
    /// The name used in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cert => "cert",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::Reject => "reject",
            Self::ScramSha256 => "scram-sha-256",
            Self::Trust => "trust",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One name in a rule's `database` or `user`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameMatch {
    /// Any name.
    All,
    /// This very name.
    Exactly(String),
    /// A database named like the user (databases only).
    SameUser,
}

impl NameMatch {
    fn matches(&self, name: &str, user: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exactly(wanted) => wanted == name,
            Self::SameUser => name == user,
        }
    }
}

/// One `[[auth.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaRule {
    /// The kinds of connection it is about.
    pub kind: RuleKind,
    /// Databases; any of them may match.
    pub databases: Vec<NameMatch>,
    /// Users; any of them may match.
    pub users: Vec<NameMatch>,
    /// Client addresses; `None` stands for all of them. A network never matches a unix socket.
    pub address: Option<IpNet>,
    /// What a client that matches has to do.
    pub method: Method,
}

/// A login to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The client's address; `None` for a unix socket. IPv4-mapped IPv6 addresses count as IPv4.
    pub address: Option<IpAddr>,
    /// Whether the connection is inside TLS.
    pub tls: bool,
    /// The database asked for.
    pub database: &'a str,
    /// The user name given.
    pub user: &'a str,
}

impl HbaRule {
    /// Whether this rule is about that login.
    pub fn matches(&self, attempt: &Attempt<'_>) -> bool {
        let kind = match (self.kind, attempt.address) {
            (RuleKind::All, _) | (RuleKind::Local, None) | (RuleKind::Host, Some(_)) => true,
            (RuleKind::HostSsl, Some(_)) => attempt.tls,
            (RuleKind::HostNoSsl, Some(_)) => !attempt.tls,
            _ => false,
        };
        let address = match (self.address, attempt.address) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(net), Some(ip)) => net.contains(&ip.to_canonical()),
        };
        kind && address
            && self.databases.iter().any(|one| one.matches(attempt.database, attempt.user))
            && self.users.iter().any(|one| one.matches(attempt.user, attempt.user))
    }
}

/// The method of the first rule that matches; `None` when no rule does, which is a refusal (28000).
pub fn decide(rules: &[HbaRule], attempt: &Attempt<'_>) -> Option<Method> {
    rules.iter().find(|rule| rule.matches(attempt)).map(|rule| rule.method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: RuleKind, address: Option<&str>, method: Method) -> HbaRule {
        HbaRule {
            kind,
            databases: vec![NameMatch::All],
            users: vec![NameMatch::All],
            address: address.map(|text| text.parse().unwrap()),
            method,
        }
    }

    fn from(address: Option<&str>, tls: bool) -> Attempt<'static> {
        Attempt { address: address.map(|text| text.parse().unwrap()), tls, database: "shop", user: "app" }
    }

    #[test]
    fn the_first_match_wins() {
        let rules = [
            rule(RuleKind::Host, Some("10.0.0.0/8"), Method::Trust),
            rule(RuleKind::Host, Some("10.1.0.0/16"), Method::Reject),
            rule(RuleKind::All, None, Method::ScramSha256),
        ];
        assert_eq!(decide(&rules, &from(Some("10.1.2.3"), false)), Some(Method::Trust));
        assert_eq!(decide(&rules, &from(Some("192.168.1.1"), false)), Some(Method::ScramSha256));
        assert_eq!(decide(&rules[..2], &from(Some("192.168.1.1"), false)), None);
        assert_eq!(decide(&[], &from(None, false)), None);
    }

    #[test]
    fn kinds_follow_pg_hba() {
        let cases = [
            (RuleKind::All, [true, true, true]),
            (RuleKind::Local, [true, false, false]),
            (RuleKind::Host, [false, true, true]),
            (RuleKind::HostNoSsl, [false, true, false]),
            (RuleKind::HostSsl, [false, false, true]),
        ];
        let attempts = [from(None, false), from(Some("::1"), false), from(Some("::1"), true)];
        for (kind, expected) in cases {
            let found = attempts.map(|attempt| rule(kind, None, Method::Trust).matches(&attempt));
            assert_eq!(found, expected, "{kind:?}");
        }
    }

    #[test]
    fn a_network_is_not_a_unix_socket_and_mapped_addresses_are_ipv4() {
        let any4 = rule(RuleKind::All, Some("0.0.0.0/0"), Method::Trust);
        assert!(!any4.matches(&from(None, false)));
        assert!(any4.matches(&from(Some("::ffff:10.0.0.1"), false)));
        assert!(!any4.matches(&from(Some("::1"), false)));
    }

    #[test]
    fn names_and_sameuser() {
        let mut one = rule(RuleKind::All, None, Method::Trust);
        one.databases = vec![NameMatch::SameUser, NameMatch::Exactly("other".into())];
        one.users = vec![NameMatch::Exactly("app".into())];
        assert!(!one.matches(&from(None, false)));
        assert!(one.matches(&Attempt { database: "app", ..from(None, false) }));
        assert!(one.matches(&Attempt { database: "other", ..from(None, false) }));
        assert!(!one.matches(&Attempt { database: "bob", user: "bob", ..from(None, false) }));
    }
}
