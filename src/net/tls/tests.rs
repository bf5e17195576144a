//! Both sides of our TLS against each other, with certificates made for the occasion.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::config::TlsMode::{self, Require, VerifyCa, VerifyFull};
use crate::config::{ClientTls, ClientTlsMode, NodeAddress, ServerTls};
use crate::net::{DialError, Peer, Plain, Stream, dial};

/// A CA, a server certificate and a client certificate in files.
struct Files {
    dir: TempDir,
    ca: Issuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test ca");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, ca: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `name.crt` and `name.key`, signed by the CA.
    fn issue(&self, name: &str, alt_names: &[&str], common_name: &str) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = alt_names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn client_tls(&self, name: &str, client_ca: Option<PathBuf>) -> ClientTls {
        ClientTls {
            mode: ClientTlsMode::Allow,
            cert: Some(self.path(&format!("{name}.crt"))),
            key: Some(self.path(&format!("{name}.key"))),
            client_ca,
        }
    }
}

fn server_tls(mode: TlsMode, ca: Option<&Path>) -> ServerTls {
    ServerTls { mode, ca: ca.map(Path::to_owned), cert: None, key: None }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// Answers each SSLRequest with `answer`, and `S` with TLS. Serves `connections` connections, then gives back the last.
async fn serve(
    listener: &TcpListener,
    acceptor: &ClientTlsAcceptor,
    answer: u8,
    connections: usize,
) -> std::io::Result<Stream> {
    let mut last = Err(std::io::ErrorKind::NotConnected.into());
    for _ in 0..connections {
        let (mut socket, peer) = listener.accept().await?;
        let mut request = [0; 8];
        if socket.read_exact(&mut request).await.is_err() {
            continue;
        }
        socket.write_all(&[answer]).await?;
        let plain = Stream::Plain(Plain::Tcp(socket, Peer::tcp(peer)));
        last = if answer == b'S' { acceptor.accept(plain, b"", false, soon()).await } else { Ok(plain) };
    }
    last
}

async fn try_both(
    files: &Files,
    server: &str,
    host: &str,
    client: &ServerTls,
) -> (Result<Stream, DialError>, std::io::Result<Stream>) {
    let acceptor = ClientTlsAcceptor::load(&files.client_tls(server, None)).unwrap().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = NodeAddress::new(host, listener.local_addr().unwrap().port());
    let context = ServerTlsContext::load(client).unwrap();
    tokio::join!(dial(&address, &context, soon()), serve(&listener, &acceptor, b'S', 1))
}

#[tokio::test]
async fn modes_check_what_libpq_checks() {
    let files = Files::new();
    files.issue("named", &["localhost"], "x");
    files.issue("other", &["elsewhere.example"], "localhost");
    files.issue("common", &[], "localhost");
    let ca = files.path("ca.crt");
    let strangers = Files::new();
    let wrong = strangers.path("ca.crt");
    for (server, mode, ca, good) in [
        ("named", Require, None, true),
        ("named", Require, Some(&ca), true),
        ("named", Require, Some(&wrong), false),
        ("named", VerifyCa, Some(&ca), true),
        ("named", VerifyCa, Some(&wrong), false),
        ("named", VerifyFull, Some(&ca), true),
        ("other", VerifyCa, Some(&ca), true),
        ("other", VerifyFull, Some(&ca), false),
        ("common", VerifyFull, Some(&ca), true),
    ] {
        let settings = server_tls(mode, ca.map(PathBuf::as_path));
        let (dialled, _) = try_both(&files, server, "localhost", &settings).await;
        assert_eq!(dialled.is_ok(), good, "{server} {mode:?} {dialled:?}");
    }
}

#[tokio::test]
async fn a_self_signed_certificate_may_be_its_own_ca() {
    let files = Files::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "localhost");
    std::fs::write(files.path("own.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(files.path("own.key"), key.serialize_pem()).unwrap();
    let settings = server_tls(TlsMode::VerifyFull, Some(&files.path("own.crt")));
    let (dialled, accepted) = try_both(&files, "own", "localhost", &settings).await;
    let (ours, theirs) = (dialled.unwrap().tls_info().unwrap(), accepted.unwrap().tls_info().unwrap());
    assert!(ours.end_point.is_some());
    assert_eq!(ours.end_point, theirs.end_point, "both sides bind to the same certificate");
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    std::fs::write(files.path("own.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    let (dialled, _) = try_both(&files, "own", "localhost", &settings).await;
    assert!(matches!(dialled, Err(DialError::Tls(_))), "expired");
}

#[tokio::test]
async fn prefer_falls_back_and_require_does_not() {
    let files = Files::new();
    files.issue("named", &["localhost"], "x");
    let acceptor = ClientTlsAcceptor::load(&files.client_tls("named", None)).unwrap().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = NodeAddress::new("localhost", listener.local_addr().unwrap().port());
    let prefer = ServerTlsContext::load(&server_tls(TlsMode::Prefer, None)).unwrap();
    let require = ServerTlsContext::load(&server_tls(TlsMode::Require, None)).unwrap();
    let (dialled, _) = tokio::join!(dial(&address, &prefer, soon()), serve(&listener, &acceptor, b'S', 1));
    assert!(dialled.unwrap().is_tls());
    let (dialled, _) = tokio::join!(dial(&address, &prefer, soon()), serve(&listener, &acceptor, b'N', 1));
    assert!(!dialled.unwrap().is_tls());
    let (dialled, _) = tokio::join!(dial(&address, &require, soon()), serve(&listener, &acceptor, b'N', 1));
    assert!(matches!(dialled, Err(DialError::NoTls)));
    let (dialled, _) = tokio::join!(dial(&address, &require, soon()), serve(&listener, &acceptor, b'H', 1));
    assert!(matches!(dialled, Err(DialError::Tls(_))));
    // An error in answer to SSLRequest, and a certificate that a given CA did not sign: both end in plain text.
    for (ca, answer) in [(None, b'E'), (Some(Files::new()), b'S')] {
        let path = ca.as_ref().map(|files| files.path("ca.crt"));
        let context = ServerTlsContext::load(&server_tls(TlsMode::Prefer, path.as_deref())).unwrap();
        let dialled = tokio::select! {
            dialled = dial(&address, &context, soon()) => dialled.unwrap(),
            _ = async { loop { let _ = serve(&listener, &acceptor, answer, 1).await; } } => unreachable!(),
        };
        assert!(!dialled.is_tls());
    }
}

#[tokio::test]
async fn client_certificates_reach_the_session() {
    let files = Files::new();
    files.issue("named", &["localhost"], "x");
    files.issue("alice", &[], "alice");
    let acceptor =
        ClientTlsAcceptor::load(&files.client_tls("named", Some(files.path("ca.crt")))).unwrap().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = NodeAddress::new("localhost", listener.local_addr().unwrap().port());
    let mut settings = server_tls(TlsMode::Require, None);
    let without = ServerTlsContext::load(&settings).unwrap();
    let (_ours, theirs) =
        tokio::join!(dial(&address, &without, soon()), serve(&listener, &acceptor, b'S', 1));
    assert!(theirs.unwrap().tls_info().unwrap().peer_certificate.is_none());
    settings.cert = Some(files.path("alice.crt"));
    assert!(ServerTlsContext::load(&settings).is_err(), "a certificate without key");
    settings.key = Some(files.path("alice.key"));
    let with = ServerTlsContext::load(&settings).unwrap();
    let (_ours, theirs) = tokio::join!(dial(&address, &with, soon()), serve(&listener, &acceptor, b'S', 1));
    let info = theirs.unwrap().tls_info().unwrap();
    assert_eq!(common_name(&info.peer_certificate.unwrap()), Some("alice".to_owned()));
}

#[tokio::test]
async fn reload_changes_new_connections_only() {
    let files = Files::new();
    files.issue("named", &["localhost"], "x");
    let settings = files.client_tls("named", None);
    let acceptor = ClientTlsAcceptor::load(&settings).unwrap().unwrap();
    let before = acceptor.end_point();
    files.issue("named", &["localhost"], "y");
    assert_eq!(acceptor.end_point(), before, "not before it is told");
    acceptor.reload(&settings).unwrap();
    assert_ne!(acceptor.end_point(), before);
    std::fs::write(files.path("named.crt"), "garbage").unwrap();
    let error = acceptor.reload(&settings).unwrap_err().to_string();
    assert!(error.contains("named.crt"), "{error}");
    assert!(acceptor.end_point().is_some(), "the old one stays in use");
    assert!(ClientTlsAcceptor::load(&ClientTls::default()).unwrap().is_none());
}

/// Direct TLS: bytes already read are not lost, and ALPN is demanded.
#[tokio::test]
async fn direct_tls_needs_alpn() {
    let files = Files::new();
    files.issue("named", &["localhost"], "x");
    let acceptor = ClientTlsAcceptor::load(&files.client_tls("named", None)).unwrap().unwrap();
    let context = ServerTlsContext::load(&server_tls(TlsMode::Require, None)).unwrap();
    let with_alpn = context.current().config.clone().unwrap();
    let mut without_alpn = (*with_alpn).clone();
    without_alpn.alpn_protocols.clear();
    for (config, good) in [(with_alpn, true), (Arc::new(without_alpn), false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = async {
            let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(config);
            let mut stream = connector.connect("localhost".try_into().unwrap(), socket).await?;
            stream.write_all(b"hello").await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        let server = async {
            let (mut socket, peer) = listener.accept().await.unwrap();
            let mut first = [0; 100];
            socket.read_exact(&mut first).await.unwrap();
            let plain = Stream::Plain(Plain::Tcp(socket, Peer::tcp(peer)));
            let mut stream = acceptor.accept(plain, &first, true, soon()).await?;
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).await?;
            assert_eq!(&hello, b"hello");
            assert!(stream.is_quiet(), "session tickets and their like are not a word");
            stream.write_all(b"!").await?;
            stream.flush().await
        };
        let (client, server) = tokio::join!(client, server);
        assert_eq!((client.is_ok(), server.is_ok()), (good, good));
    }
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_is_an_error() {
    let files = Files::new();
    files.issue("named", &["localhost"], "x");
    let acceptor = ClientTlsAcceptor::load(&files.client_tls("named", None)).unwrap().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, peer) = listener.accept().await.unwrap();
    let plain = Stream::Plain(Plain::Tcp(socket, Peer::tcp(peer)));
    assert!(acceptor.accept(plain, b"GET / HTTP/1.1\r\n\r\n", true, soon()).await.is_err());
    drop(client);
}
