//! Vectors of RFC 7677, both sides against each other, and garbage from strangers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;

use super::client::{Binding, Challenge};
use super::server::Offer;
use super::*;

const CLIENT_NONCE: [u8; NONCE_BYTES] = [7; NONCE_BYTES];
const SERVER_NONCE: [u8; NONCE_BYTES] = [9; NONCE_BYTES];

/// RFC 7677, section 3: its keys give its proof and its server signature.
#[test]
fn rfc_7677_vector() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = Verifier::from_password(b"pencil", &salt, 4096);
    let signed = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
        r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
        c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let keys = derive(b"pencil", &salt, 4096);
    let proof = hash::xor(&keys.client, &hash::hmac(&verifier.stored_key, &[signed.as_bytes()]));
    assert_eq!(BASE64.encode(proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let signature = hash::hmac(&verifier.server_key, &[signed.as_bytes()]);
    assert_eq!(BASE64.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn verifier_text_round_trip() {
    let made = Verifier::from_password(b"secret", b"0123456789abcdef", 4096);
    let text = made.to_text();
    assert_eq!(Verifier::parse(&text), Ok(made));
    assert!(text.starts_with("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$"));
    for bad in
        ["", "md5abc", "SCRAM-SHA-256$0:YQ==$YQ==:YQ==", "SCRAM-SHA-256$4096:$a:b", &text[..text.len() - 4]]
    {
        assert_eq!(Verifier::parse(bad), Err(verifier::NotAVerifier), "{bad}");
    }
    assert!(!format!("{:?}", Verifier::parse(&text)).contains(&text[60..]));
}

#[test]
fn mock_is_stable_per_user_and_fits_no_password() {
    let mock = Verifier::mock("nobody", &[1; 32]);
    assert_eq!(mock, Verifier::mock("nobody", &[1; 32]));
    assert_ne!(mock.salt, Verifier::mock("nobody2", &[1; 32]).salt);
    assert_ne!(mock.salt, Verifier::mock("nobody", &[2; 32]).salt);
    assert!(mock.matches(b"").is_none());
}

#[test]
fn md5_matches_postgresql() {
    // SELECT 'md5' || md5('secret' || 'alice')
    let stored = md5::stored("alice", b"secret");
    assert_eq!(stored, "md54a0a68b43b6cd5cf266fa02f196e2371");
    let answer = md5::response(&stored, *b"salt").unwrap();
    assert!(md5::verify(&stored, *b"salt", answer.as_bytes()));
    assert!(!md5::verify(&stored, *b"tlas", answer.as_bytes()));
    assert!(!md5::verify("plain", *b"salt", b""));
}

#[test]
fn saslprep_as_postgresql() {
    assert_eq!(&*saslprep(b"a\x01b"), b"a\x01b", "ASCII is never changed");
    assert_eq!(&*saslprep("I\u{AD}X".as_bytes()), b"IX", "soft hyphen maps to nothing");
    assert_eq!(&*saslprep("\u{2168}".as_bytes()), b"IX", "NFKC");
    assert_eq!(&*saslprep("\u{7}\u{E9}".as_bytes()), "\u{7}\u{E9}".as_bytes(), "prohibited: raw");
    assert_eq!(&*saslprep(b"\xFF\xFE"), b"\xFF\xFE", "not UTF-8: raw");
    assert_eq!(&*saslprep("\u{AD}".as_bytes()), "\u{AD}".as_bytes(), "nothing left: raw");
}

struct Login {
    password: &'static [u8],
    client: Binding,
    end_point: Option<&'static [u8]>,
    offered: bool,
}

/// Runs a whole exchange; the verifier is that of "secret".
fn login(login: &Login) -> Result<ClientKey, ScramError> {
    let verifier = Verifier::from_password(b"secret", b"salt", 2);
    let client = Client::new(&CLIENT_NONCE, login.client.clone());
    let offer = match (login.end_point, client.mechanism()) {
        (Some(data), SCRAM_SHA_256_PLUS) => Offer::Plus(data),
        _ if login.offered => Offer::PlainButBindable,
        _ => Offer::Plain,
    };
    let (server, reply) = Server::first(&client.first(), verifier, &SERVER_NONCE, offer)?;
    let challenge = client.on_server_first(&reply)?;
    let (message, proof) = challenge.answer(&Secret::Password(login.password));
    let (answer, key) = server.finish(&message)?;
    proof.on_server_final(&answer)?;
    Ok(key)
}

#[test]
fn bindings_agree_or_are_refused() {
    let base = |client, end_point, offered| Login { password: b"secret", client, end_point, offered };
    let bound = |data: &[u8]| Binding::EndPoint(data.to_vec());
    assert!(login(&base(Binding::None, None, false)).is_ok());
    assert!(login(&base(Binding::None, None, true)).is_ok(), "a client without binding may log in over TLS");
    assert!(login(&base(Binding::NotOffered, None, false)).is_ok());
    assert!(login(&base(bound(b"cert"), Some(b"cert"), true)).is_ok());
    assert_eq!(login(&base(Binding::NotOffered, None, true)).err(), Some(ScramError::Downgrade));
    assert_eq!(login(&base(bound(b"cert"), Some(b"other"), true)).err(), Some(ScramError::Binding));
    assert!(matches!(login(&base(bound(b"cert"), None, true)), Err(ScramError::Malformed(_))));
}

#[test]
fn recovered_key_logs_in_upstream() {
    let key = login(&Login { password: b"secret", client: Binding::None, end_point: None, offered: false })
        .unwrap();
    let verifier = Verifier::from_password(b"secret", b"salt", 2);
    let client = Client::new(&CLIENT_NONCE, Binding::None);
    let (server, reply) = Server::first(&client.first(), verifier, &SERVER_NONCE, Offer::Plain).unwrap();
    let (message, proof) = client.on_server_first(&reply).unwrap().answer(&Secret::ClientKey(&key));
    let (answer, _) = server.finish(&message).unwrap();
    proof.on_server_final(&answer).unwrap();
}

#[test]
fn wrong_password_fails_and_wrong_server_is_noticed() {
    let wrong = Login { password: b"wrong", client: Binding::None, end_point: None, offered: false };
    assert_eq!(login(&wrong).err(), Some(ScramError::Failed));
    let (_, proof) = challenge().answer(&Secret::Password(b"secret"));
    let forged = format!("v={}", BASE64.encode([0; 32]));
    assert_eq!(proof.on_server_final(forged.as_bytes()), Err(ScramError::ServerSignature));
}

fn challenge() -> Challenge {
    let client = Client::new(&CLIENT_NONCE, Binding::None);
    let first = format!("r={}x,s=c2FsdA==,i=2", BASE64.encode(CLIENT_NONCE));
    client.on_server_first(first.as_bytes()).unwrap()
}

#[test]
fn hostile_server_messages_are_refused() {
    let nonce = BASE64.encode(CLIENT_NONCE);
    for bad in [
        String::new(),
        "r=".into(),
        format!("r={nonce},s=c2FsdA==,i=4096"),
        format!("r=other{nonce},s=c2FsdA==,i=4096"),
        format!("r={nonce}x,s=,i=4096"),
        format!("r={nonce}x,s=c2FsdA==,i=0"),
        format!("r={nonce}x,s=c2FsdA==,i=4294967296"),
        format!("r={nonce}x,s=c2FsdA==,i=4000000000"),
        format!("m=x,r={nonce}x,s=c2FsdA==,i=1"),
        "e=other-error".into(),
        "x".repeat(MAX_MESSAGE + 1),
    ] {
        let client = Client::new(&CLIENT_NONCE, Binding::None);
        assert!(client.on_server_first(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn hostile_client_messages_are_refused() {
    for bad in [
        "",
        ",",
        ",,",
        "n",
        "n,",
        "n,,",
        "n,a=x,n=,r=abc",
        "n,,m=x,n=,r=abc",
        "n,,n=,r=",
        "n,,n=,r=a b\u{e9}",
        "x,,n=,r=abc",
        "p=tls-unique,,n=,r=abc",
        "n,,r=abc",
        "n,,n=,r=abc,zz",
    ] {
        let verifier = Verifier::from_password(b"secret", b"salt", 2);
        assert!(Server::first(bad.as_bytes(), verifier, &SERVER_NONCE, Offer::Plain).is_err(), "{bad}");
    }
}

fn started() -> Server {
    let verifier = Verifier::from_password(b"secret", b"salt", 2);
    Server::first(b"n,,n=,r=abc", verifier, &SERVER_NONCE, Offer::Plain).unwrap().0
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let verifier = Verifier::mock("x", &[0; 32]);
        let _ = Server::first(&bytes, verifier, &SERVER_NONCE, Offer::PlainButBindable);
        prop_assert!(started().finish(&bytes).is_err());
        let _ = Client::new(&CLIENT_NONCE, Binding::None).on_server_first(&bytes);
        let _ = challenge().answer(&Secret::Password(b"x")).1.on_server_final(&bytes);
        let _ = Verifier::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn almost_scram_never_panics_and_never_passes(text in "(c=biws,)?(r=[a-z]{0,9},?){0,2}(p=[A-Za-z0-9+/=]{0,60})?(,x=.?)?") {
        prop_assert!(started().finish(text.as_bytes()).is_err());
        let _ = Server::first(text.as_bytes(), Verifier::mock("x", &[0; 32]), &SERVER_NONCE, Offer::Plain);
    }

    #[test]
    fn any_password_agrees_with_itself_only(password in "\\PC{0,20}", other in "\\PC{0,20}") {
        let (password, other) = (password.as_bytes(), other.as_bytes());
        let verifier = Verifier::from_password(password, b"salt", 1);
        prop_assert!(verifier.matches(password).is_some());
        prop_assert_eq!(verifier.matches(other).is_some(), saslprep(password) == saslprep(other));
    }
}
