//! What the fuzz targets do with their input, one function each.
//!
//! In: bytes of a stranger. Out: nothing, or a panic when a promise is broken. tests/corpus.rs includes this file,
//! so it uses nothing but pgsteer itself.

use std::io;
use std::path::Path;

use pgsteer::admin::command;
use pgsteer::config;
use pgsteer::scram::client::{Binding, Secret};
use pgsteer::scram::server::Offer;
use pgsteer::scram::{Client, ClientKey, NONCE_BYTES, Server, Verifier, binding, saslprep};
use pgsteer::sql::catalogue::{Catalogue, Overrides};
use pgsteer::sql::effect::{Effect, effects, is_plain};
use pgsteer::sql::judge::{Context, Encoding, Verdict, judge as judged, judge_prepared};
use pgsteer::sql::lexer::{Lexer, Token};
use pgsteer::sql::names::{Known, Name, Names, Qualified};
use pgsteer::wire::error::{ErrorView, Severity};
use pgsteer::wire::startup::{self, FirstPacket, MAX_CANCEL_KEY, MAX_NAME, Refusal, Startup};
use pgsteer::wire::{backend, encode, frame, frontend};

/// A limit as in `limits.max_startup_packet`.
const STARTUP_BYTES_MAX: usize = 10_000;

/// The first packet of a connection.
pub fn startup(data: &[u8]) {
    if let Some(head) = data.first_chunk::<4>()
        && let Ok(length) = startup::packet_len(*head, STARTUP_BYTES_MAX)
    {
        assert!((8..=STARTUP_BYTES_MAX).contains(&length));
    }
    match startup::parse(data) {
        Ok(FirstPacket::Startup(login)) => check_login(&login),
        Ok(FirstPacket::Cancel { key, .. }) => assert!(!key.is_empty() && key.len() <= MAX_CANCEL_KEY),
        Ok(FirstPacket::Gss | FirstPacket::Ssl) => {}
        Err(Refusal::Silent(why)) => assert!(!why.is_empty()),
        Err(Refusal::Told(error)) => {
            assert_eq!(error.severity, Severity::Fatal, "a refused login ends the connection");
        }
    }
}

/// What has been read can be sent on to a server and means the same there.
fn check_login(login: &Startup) {
    assert!(!login.user.is_empty() && login.user.len() <= MAX_NAME);
    assert!(!login.database.is_empty() && login.database.len() <= MAX_NAME);
    for (_, value) in &login.params {
        startup::split_options(value);
        for (name, _) in startup::option_settings(value) {
            assert!(!name.contains('-'), "names of settings have no dashes");
        }
    }
    let names = [("user", login.user.as_str()), ("database", login.database.as_str())];
    let replication = login.replication.iter().map(|value| ("replication", value.as_str()));
    let params = login.params.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut packet = Vec::new();
    encode::startup_packet(&mut packet, login.version, names.into_iter().chain(replication).chain(params));
    let Ok(FirstPacket::Startup(again)) = startup::parse(&packet) else {
        panic!("what we send is not a startup packet: {packet:?}");
    };
    let expected = Startup { negotiate: None, ..login.clone() };
    assert_eq!(again, expected);
}

/// A stream of messages, looked at as if from a client and as if from a server.
pub fn frames(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((message, after))) = frame::split(rest) {
        assert_eq!(frame::HEADER_LEN + message.body.len() + after.len(), rest.len());
        from_client(message.tag, message.body);
        from_server(message.tag, message.body);
        rest = after;
    }
    if let Ok(Some(header)) = frame::header(rest) {
        assert!(header.len > rest.len(), "a whole message was left");
    }
}

fn from_client(tag: u8, body: &[u8]) {
    if frontend::Kind::of(tag).is_none() {
        return;
    }
    frontend::bind(body);
    frontend::execute(body);
    frontend::named(body);
    frontend::parse(body);
    if let Some(sql) = frontend::query(body) {
        assert!(!sql.contains(&0));
    }
}

fn from_server(tag: u8, body: &[u8]) {
    if let Some(status) = backend::TxStatus::parse(body) {
        assert_eq!(body.first(), Some(&status.byte()));
    }
    backend::authentication(body);
    backend::command_tag(body);
    backend::parameter_status(body);
    if let Some((_, key)) = backend::backend_key_data(body) {
        assert!((4..=MAX_CANCEL_KEY).contains(&key.len()));
    }
    if matches!(tag, b'E' | b'N') {
        let view = ErrorView::new(body);
        let _ = (view.code(), view.severity(), view.message(), view.ends_connection());
        assert!((0..=u8::MAX).filter_map(|field| view.field(field)).all(|text| text.len() < body.len()));
    }
}

/// The two halves of an input, divided at the first zero byte.
fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    (&data[..at], data.get(at + 1..).unwrap_or_default())
}

const NONCE: [u8; NONCE_BYTES] = [7; NONCE_BYTES];
const PASSWORD: &[u8] = b"pencil";

/// What the server knows and what the client knows. One round: the exchange is tested here, not the derivation.
fn secrets() -> (Verifier, ClientKey) {
    (Verifier::from_password(PASSWORD, b"salt", 1), ClientKey::from_password(PASSWORD, b"salt", 1))
}

/// A client's two messages to our SCRAM server; also verifiers, passwords and certificates as texts.
pub fn scram_server(data: &[u8]) {
    let (first, last) = halves(data);
    for offer in [Offer::Plain, Offer::PlainButBindable, Offer::Plus(b"end point")] {
        if let Ok((server, reply)) = Server::first(first, secrets().0, &NONCE, offer) {
            assert!(reply.starts_with(b"r=") && reply.ends_with(b",i=1"));
            if let Ok((signature, _)) = server.finish(last) {
                assert!(signature.starts_with(b"v="));
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(verifier) = Verifier::parse(text)
    {
        let again = Verifier::parse(&verifier.to_text());
        assert!(again.is_ok_and(|again| again == verifier), "a verifier reads as it is written");
    }
    saslprep(data);
    binding::server_end_point(data);
}

/// A server's two messages to our SCRAM client.
pub fn scram_client(data: &[u8]) {
    let (first, last) = halves(data);
    for binding in [Binding::None, Binding::NotOffered, Binding::EndPoint(vec![1; 32])] {
        if let Ok(challenge) = Client::new(&NONCE, binding).on_server_first(first) {
            assert!(!challenge.salt.is_empty() && challenge.iterations > 0);
            let (answer, proof) = challenge.answer(&Secret::ClientKey(&secrets().1));
            assert!(answer.starts_with(b"c="));
            // A signature over this nonce is 2^-256 away from being guessed, but a seed may hold it.
            let _ = proof.on_server_final(last);
        }
    }
}

/// A statement text: the lexer, the effects, and the console's commands.
pub fn sql_lexer(data: &[u8]) {
    for standard_strings in [true, false] {
        let mut lexer = Lexer::new(data, standard_strings);
        let mut at = 0;
        while let Some(token) = lexer.next() {
            assert!(lexer.position() > at || token == Token::Odd, "{token:?} takes no room");
            at = lexer.position();
            assert!(at <= data.len());
        }
        let found = effects(data, standard_strings);
        let plain = found.iter().all(|effect| *effect == Effect::None);
        assert_eq!(is_plain(data, standard_strings), plain, "{found:?}");
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(error) = command::parse(text)
    {
        assert!(error.message.len() < 1000, "an error quotes little of what was typed");
    }
}

/// Calls everything safe.
struct Trusting;

impl Names for Trusting {
    fn function(&mut self, _: Qualified<'_>) -> Known {
        Known::Safe
    }
    fn attribute(&mut self, _: Name<'_>) -> Known {
        Known::Safe
    }
    fn relation(&mut self, _: Qualified<'_>) -> Known {
        Known::Safe
    }
    fn kind(&mut self, _: Qualified<'_>) -> Known {
        Known::Safe
    }
    fn operator(&mut self, _: &[u8]) -> Known {
        Known::Safe
    }
}

/// A statement text: what the judge calls a read is none any more with a write behind it, and still one with a read.
pub fn judge(data: &[u8]) {
    for (standard_strings, encoding) in
        [(true, Encoding::Utf8), (false, Encoding::AsciiSafe), (true, Encoding::Unsafe)]
    {
        let context = Context { standard_strings, encoding };
        let is_read = |sql: &[u8]| matches!(judged(sql, context, &mut Trusting).verdict, Verdict::Read);
        judge_prepared(data, context, &mut Trusting);
        let unknown = Catalogue::unknown(Overrides::default());
        let known = matches!(judged(data, context, &mut unknown.seen(None)).verdict, Verdict::Read);
        if !is_read(data) {
            assert!(!known, "who knows less calls more a read");
            continue;
        }
        for write in [&b"\n;delete from t"[..], b"\n;select 1 for update", b"\n;commit"] {
            assert!(!is_read(&[data, write].concat()), "a write behind it is not seen");
        }
        assert!(is_read(&[data, b"\n;select 1"].concat()), "a read behind it makes it a write");
    }
}

/// No file but the configuration itself.
struct NoFiles;

impl config::Files for NoFiles {
    fn secret(&self, _: &Path) -> io::Result<(String, u32)> {
        Ok(("secret\n".to_owned(), 0o600))
    }

    fn readable(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// A configuration file.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = || config::parse(&text, Some(Path::new("proxy.toml")), [], &NoFiles);
    match read() {
        Ok(loaded) => {
            assert!(!loaded.settings.cluster.nodes.is_empty() && !loaded.settings.listen.is_empty());
            assert!(loaded.settings.workers > 0);
            assert!(read().is_ok_and(|again| again == loaded), "the same text gives the same settings");
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}
