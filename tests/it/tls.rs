//! TLS towards clients and towards servers, judged by libpq and by PostgreSQL.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use crate::harness::cluster::{TestCluster, cluster};
use crate::harness::drivers::{connect, conninfo, psql};
use crate::harness::proxy::{ProxySpec, TestProxy};
use crate::harness::raw::{self, Raw};
use crate::harness::{eventually, soon};

/// A certificate authority and what it has signed, as files.
struct Papers {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Papers {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not the name that all certificates get by default: an issuer of its own name is self-signed.
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test authority");
        let folder = tempfile::tempdir().unwrap();
        let ca = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// PEM of a certificate for these names, and of its key.
    fn sign(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(names).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a certificate and its key as `NAME.pem` and `NAME.key`; both paths in TOML.
    fn store(&self, name: &str, pair: &(String, String)) -> (String, String) {
        let write = |extension: &str, text: &str| {
            let path = self.file(&format!("{name}.{extension}"));
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            format!("{:?}", path.display().to_string())
        };
        (write("pem", &pair.0), write("key", &pair.1))
    }

    fn ca(&self) -> String {
        format!("{:?}", self.file("ca.pem").display().to_string())
    }
}

/// A proxy whose listeners have a certificate for localhost.
async fn with_tls(cluster: &TestCluster, papers: &Papers, mode: &str) -> TestProxy {
    let (cert, key) = papers.store("proxy", &papers.sign(&["localhost", "127.0.0.1"]));
    let mut spec = ProxySpec::new(cluster);
    spec.listener(0, &format!("tls = {{ mode = \"{mode}\", cert = {cert}, key = {key} }}"));
    spec.start().await
}

#[tokio::test]
async fn clients_may_use_tls_and_verify_it() {
    let (cluster, papers) = (cluster(0).await, Papers::new());
    let proxy = with_tls(&cluster, &papers, "allow").await;
    let base = conninfo(&proxy.config()).replace("host=127.0.0.1", "host=localhost hostaddr=127.0.0.1");
    let ca = papers.file("ca.pem");
    for options in [
        "sslmode=disable".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=verify-full sslrootcert={}", ca.display()),
        format!("sslmode=verify-full sslrootcert={} channel_binding=require", ca.display()),
        "sslmode=require channel_binding=disable".to_owned(),
    ] {
        let said = psql(cluster.programs(), &format!("{base} {options}"), &["-c", "SELECT 1"]).await;
        assert_eq!(said.text(), "1", "{options}");
    }
    let stranger = Papers::new();
    let wrong = format!("{base} sslmode=verify-ca sslrootcert={}", stranger.file("ca.pem").display());
    assert!(!psql(cluster.programs(), &wrong, &["-c", "SELECT 1"]).await.ok);
    proxy.stop().await;
}

#[tokio::test]
async fn tls_may_be_required() {
    let (cluster, papers) = (cluster(0).await, Papers::new());
    let proxy = with_tls(&cluster, &papers, "require").await;
    let mut raw = Raw::tcp(&proxy.address()).await;
    let params = [("user", "app"), ("database", "app")];
    let frames = raw.start(raw::V3_0, &params, "app-secret").await;
    assert_eq!(frames.last().unwrap().sqlstate(), "28000", "as a server without a matching pg_hba line");
    let with = format!("{} sslmode=require", conninfo(&proxy.config()));
    assert_eq!(psql(cluster.programs(), &with, &["-c", "SELECT 1"]).await.text(), "1");
    proxy.stop().await;
}

#[tokio::test]
async fn tls_may_come_first() {
    let (cluster, papers) = (cluster(0).await, Papers::new());
    let proxy = with_tls(&cluster, &papers, "allow").await;
    let stream = direct(&proxy, &papers).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]));
    let mut raw = Raw::over(stream);
    let frames = raw.start(raw::V3_0, &[("user", "app"), ("database", "app")], "app-secret").await;
    assert_eq!(frames.last().unwrap().tag, b'Z', "{frames:?}");
    assert_eq!(raw.value("SELECT 1").await, "1");
    drop(raw);
    proxy.stop().await;
}

/// A connection that begins with TLS.
async fn direct(
    proxy: &TestProxy,
    papers: &Papers,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(papers.file("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    soon("TLS without SSLRequest", connector.connect(name, stream)).await.unwrap()
}

#[tokio::test]
async fn huge_messages_are_not_held_under_tls_either() {
    let (cluster, papers) = (cluster(0).await, Papers::new());
    let proxy = with_tls(&cluster, &papers, "require").await;
    let mut raw = Raw::over(direct(&proxy, &papers).await);
    raw.start(raw::V3_0, &[("user", "app"), ("database", "app")], "app-secret").await;
    let before = proxy.peak_memory();
    assert_eq!(raw.value("SELECT repeat('x', 50000000)").await.len(), 50_000_000);
    let long = "y".repeat(50_000_000);
    assert_eq!(raw.value(&format!("SELECT length('{long}')")).await, "50000000");
    let grown = proxy.peak_memory() - before;
    assert!(grown < 4_096, "{grown} kB more than before");
    drop(raw);
    proxy.stop().await;
}

#[tokio::test]
async fn nothing_sent_in_plain_before_tls_is_believed() {
    let (cluster, papers) = (cluster(0).await, Papers::new());
    let proxy = with_tls(&cluster, &papers, "allow").await;
    let mut raw = Raw::tcp(&proxy.address()).await;
    // A statement smuggled in behind the request (CVE-2021-23214).
    raw.send(&[raw::ssl_request(), raw::query("SELECT 1")].concat()).await;
    let answer = raw.end().await;
    assert!(answer.iter().all(|frame| frame.tag != b'T' && frame.tag != b'D'), "{answer:?}");
    proxy.stop().await;
}

/// Makes all nodes speak TLS and nothing else over TCP.
async fn secure_servers(cluster: &TestCluster, papers: &Papers) {
    let (cert, key) = papers.sign(&["127.0.0.1"]);
    for node in cluster.nodes() {
        node.set("ssl", "on");
        node.write_config().unwrap();
        node.write_file("server.crt", &cert).unwrap();
        node.write_file("server.key", &key).unwrap();
        node.write_hba("local all all trust\nhostssl all all all scram-sha-256\n").unwrap();
        node.reload().unwrap();
        node.wait_for("SHOW ssl", "on", std::time::Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test]
async fn servers_are_verified() {
    let (cluster, papers) = (cluster(0).await, Papers::new());
    secure_servers(&cluster, &papers).await;
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        let mut spec = ProxySpec::new(&cluster);
        let ca = papers.ca();
        let ca = if mode.starts_with("verify") { format!(", ca = {ca}") } else { String::new() };
        spec.raw("cluster.tls", &format!("{{ mode = \"{mode}\"{ca} }}"));
        let proxy = spec.start().await;
        let driver = connect(&proxy.config()).await.unwrap();
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        assert_eq!(driver.value(sql).await.unwrap(), "t", "{mode}");
        drop(driver);
        proxy.stop().await;
    }
    let stranger = Papers::new();
    let mut spec = ProxySpec::new(&cluster);
    spec.raw("cluster.tls", &format!("{{ mode = \"verify-full\", ca = {} }}", stranger.ca()));
    let proxy = spec.spawn();
    eventually("a reason in the topology", async || {
        let Ok(topology) = proxy.topology().await else { return false };
        topology["nodes"][0]["health"] == "down" && topology["nodes"][0]["reason"] != ""
    })
    .await;
    assert_ne!(proxy.page("/readyz").await.unwrap().0, 200);
    proxy.stop().await;
}

#[tokio::test]
async fn a_new_certificate_needs_no_restart() {
    let (cluster, papers) = (cluster(0).await, Papers::new());
    let proxy = with_tls(&cluster, &papers, "allow").await;
    let driver = connect(&proxy.config()).await.unwrap();
    let next = Papers::new();
    papers.store("proxy", &next.sign(&["localhost"]));
    proxy.signal(pgsteer::demo::process::Signal::Hup).unwrap();
    let base = conninfo(&proxy.config()).replace("host=127.0.0.1", "host=localhost hostaddr=127.0.0.1");
    let verify = format!("{base} sslmode=verify-full sslrootcert={}", next.file("ca.pem").display());
    eventually("the new certificate", async || {
        psql(cluster.programs(), &verify, &["-c", "SELECT 1"]).await.ok
    })
    .await;
    assert_eq!(driver.value("SELECT 1").await.unwrap(), "1", "who was there stays");
    drop(driver);
    proxy.stop().await;
}

#[tokio::test]
async fn a_certificate_is_a_login_and_a_cancel_may_be_encrypted() {
    let (cluster, papers) = (cluster(0).await, Papers::new());
    let (cert, key) = papers.store("proxy", &papers.sign(&["localhost", "127.0.0.1"]));
    let mut spec = ProxySpec::new(&cluster);
    let ca = papers.ca();
    spec.listener(0, &format!("tls = {{ mode = \"allow\", cert = {cert}, key = {key}, client_ca = {ca} }}"));
    spec.tables(
        "[[auth.rule]]\ntype = \"hostssl\"\nuser = \"app\"\nmethod = \"cert\"\n\
         [[auth.user]]\nname = \"app\"\npassword = \"app-secret\"",
    );
    let proxy = spec.start().await;
    let own_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "app");
    let own = params.signed_by(&own_key, &papers.issuer).unwrap().pem();
    papers.store("app", &(own, own_key.serialize_pem()));
    let base = format!("host=127.0.0.1 port={} user=app dbname=app sslmode=require", proxy.port());
    let pair = |name: &str| {
        let file = |extension: &str| papers.file(&format!("{name}.{extension}")).display().to_string();
        format!("{base} sslcert={} sslkey={}", file("pem"), file("key"))
    };
    let sql = ["-c", "SELECT current_user"];
    assert_eq!(psql(cluster.programs(), &pair("app"), &sql).await.text(), "app");
    assert!(!psql(cluster.programs(), &pair("proxy"), &sql).await.ok, "another name");
    assert!(!psql(cluster.programs(), &base, &sql).await.ok, "no certificate");
    // A running statement of such a session, cancelled over TLS.
    let mut sleeper = Raw::over(encrypted(&proxy, &papers, "app").await);
    sleeper.start(raw::V3_0, &[("user", "app"), ("database", "app")], "").await;
    sleeper.send(&raw::query("SELECT pg_sleep(60)")).await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    cluster.n(0).wait_for(sleeping, "1", std::time::Duration::from_secs(10)).await.unwrap();
    let mut cancel = Raw::over(encrypted(&proxy, &papers, "app").await);
    cancel.send(&raw::cancel_request(sleeper.pid, &sleeper.key)).await;
    cancel.end().await;
    let frames = sleeper.until(b'Z').await;
    assert!(frames.iter().any(|frame| frame.tag == b'E' && frame.sqlstate() == "57014"), "{frames:?}");
    drop(sleeper);
    proxy.stop().await;
}

/// A connection that is encrypted after SSLRequest, with a client certificate.
async fn encrypted(
    proxy: &TestProxy,
    papers: &Papers,
    name: &str,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(papers.file("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let chain = vec![CertificateDer::from_pem_file(papers.file(&format!("{name}.pem"))).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(papers.file(&format!("{name}.key"))).unwrap();
    let connector = TlsConnector::from(Arc::new(builder.with_client_auth_cert(chain, key).unwrap()));
    let mut stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &raw::ssl_request()).await.unwrap();
    assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap(), b'S');
    soon("a handshake", connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await.unwrap()
}
