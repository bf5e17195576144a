//! A client that speaks bytes: sends what no driver would, reads frames with deadlines, shows them to people.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::scram::Scram;
use super::{LIMIT, soon};

/// Protocol 3.0.
pub const V3_0: u32 = 3 << 16;
/// Protocol 3.2 (PostgreSQL 18).
pub const V3_2: u32 = (3 << 16) | 2;

/// A socket of any kind.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// One message from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The message's type.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl Frame {
    /// A field of an ErrorResponse or NoticeResponse: `C` is the SQLSTATE, `M` the message.
    pub fn field(&self, code: u8) -> Option<String> {
        let mut fields = self.body.split(|byte| *byte == 0);
        fields.find(|field| field.first() == Some(&code)).map(|field| text(&field[1..]))
    }

    /// The SQLSTATE of an ErrorResponse; panics on any other message.
    pub fn sqlstate(&self) -> String {
        assert_eq!(self.tag, b'E', "an error was expected, got {self}");
        self.field(b'C').unwrap()
    }

    /// The columns of a DataRow as text.
    pub fn columns(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D', "a row was expected, got {self}");
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while !rest.is_empty() {
            let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
            rest = &rest[4..];
            let size = usize::try_from(length).unwrap_or(0);
            columns.push((length >= 0).then(|| text(&rest[..size])));
            rest = &rest[size..];
        }
        columns
    }

    /// The columns of a RowDescription as name:type:format; which table they are from is left out, since
    /// object ids differ from run to run.
    pub fn fields(&self) -> Vec<String> {
        assert_eq!(self.tag, b'T', "a description was expected");
        let mut rest = &self.body[2..];
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == 0).unwrap();
            let fixed = &rest[end + 1..];
            let oid = u32::from_be_bytes(fixed[6..10].try_into().unwrap());
            let format = u16::from_be_bytes(fixed[16..18].try_into().unwrap());
            fields.push(format!("{}:{oid}:{format}", text(&rest[..end])));
            rest = &fixed[18..];
        }
        fields
    }

    /// The whole message as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        message(self.tag, &self.body)
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        match self.tag {
            b'E' | b'N' => {
                let field = |code| self.field(code).unwrap_or_default();
                write!(f, "{tag} {} {} {}", field(b'S'), field(b'C'), field(b'M'))
            }
            b'D' => {
                let shown = self.columns().into_iter().map(|column| column.unwrap_or_else(|| "NULL".into()));
                write!(f, "{tag} {}", shown.collect::<Vec<_>>().join("|"))
            }
            b'T' => write!(f, "{tag} {}", self.fields().join("|")),
            _ => write!(f, "{tag} {}", self.body.escape_ascii()),
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{self}>")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A raw connection.
pub struct Raw {
    socket: Box<dyn Socket>,
    /// What has been read and belongs to no message yet: a read that is given up loses nothing.
    unread: BytesMut,
    /// BackendKeyData's process id, after a login.
    pub pid: i32,
    /// BackendKeyData's secret, after a login.
    pub key: Vec<u8>,
    /// ParameterStatus seen so far.
    pub params: BTreeMap<String, String>,
}

impl Raw {
    /// Over TCP; sends nothing.
    pub async fn tcp(address: &str) -> Self {
        let stream = soon("connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Over a unix socket `dir/.s.PGSQL.port`; sends nothing.
    pub async fn unix(dir: &Path, port: u16) -> Self {
        Self::over(UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await.unwrap())
    }

    /// Over any socket, such as one with TLS.
    pub fn over(socket: impl Socket + 'static) -> Self {
        Self {
            socket: Box::new(socket),
            unread: BytesMut::new(),
            pid: 0,
            key: Vec::new(),
            params: BTreeMap::new(),
        }
    }

    /// The socket, to be wrapped in TLS.
    pub fn into_socket(self) -> Box<dyn Socket> {
        self.socket
    }

    // ---- bytes --------------------------------------------------------------------------------------

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        soon("room to send", self.socket.write_all(bytes)).await.unwrap();
        soon("room to send", self.socket.flush()).await.unwrap();
    }

    /// Sends bytes; the peer may have closed already.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        soon("room to send", self.socket.write_all(bytes)).await.is_ok()
            && soon("room to send", self.socket.flush()).await.is_ok()
    }

    /// Sends FIN and goes on reading.
    pub async fn half_close(&mut self) {
        self.socket.shutdown().await.unwrap();
    }

    /// One byte that is no message: the answer to SSLRequest and GSSENCRequest.
    pub async fn byte(&mut self) -> u8 {
        assert!(self.unread.is_empty(), "a byte was expected after {:?}", self.unread);
        soon("a byte", self.socket.read_u8()).await.unwrap()
    }

    /// The next message, or none at the end of the stream (also after a reset).
    pub async fn next(&mut self) -> Option<Frame> {
        soon("a message", self.read_frame()).await
    }

    /// The next message within `limit`; none when there is silence.
    pub async fn within(&mut self, limit: Duration) -> Option<Frame> {
        tokio::time::timeout(limit, self.read_frame()).await.ok().flatten()
    }

    /// The next message, or none at the end of the stream; nothing at all when there is silence for `limit`.
    pub async fn heard(&mut self, limit: Duration) -> Option<Option<Frame>> {
        tokio::time::timeout(limit, self.read_frame()).await.ok()
    }

    async fn read_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(header) = self.unread.first_chunk::<5>() {
                let [tag, length @ ..] = *header;
                let size = u32::from_be_bytes(length) as usize + 1;
                assert!(size >= 5, "message {:?} has length {}", char::from(tag), size - 1);
                if self.unread.len() >= size {
                    let body = self.unread.split_to(size)[5..].to_vec();
                    let frame = Frame { tag, body };
                    self.note(&frame);
                    return Some(frame);
                }
            }
            self.unread.reserve(16 << 10);
            if self.socket.read_buf(&mut self.unread).await.ok()? == 0 {
                return None;
            }
        }
    }

    fn note(&mut self, frame: &Frame) {
        match frame.tag {
            b'S' => {
                let mut words = frame.body.split(|byte| *byte == 0).map(text);
                self.params.insert(words.next().unwrap(), words.next().unwrap());
            }
            b'K' => {
                self.pid = i32::from_be_bytes(frame.body[..4].try_into().unwrap());
                self.key = frame.body[4..].to_vec();
            }
            _ => {}
        }
    }

    /// The next message; the stream must not end.
    pub async fn frame(&mut self) -> Frame {
        self.next().await.expect("the connection ended where a message was expected")
    }

    /// All messages up to and including one of this type; ParameterStatus and notices included.
    pub async fn until(&mut self, tag: u8) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let Some(frame) = self.next().await else {
                panic!("the connection ended before {:?}; got {frames:?}", char::from(tag));
            };
            let done = frame.tag == tag;
            frames.push(frame);
            if done {
                return frames;
            }
        }
    }

    /// Asserts that the stream ends; the messages before the end.
    pub async fn end(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// Asserts the types of the next messages.
    pub async fn expect(&mut self, tags: &str) -> Vec<Frame> {
        let mut frames = Vec::new();
        for tag in tags.bytes() {
            let frame = self.frame().await;
            assert_eq!(char::from(frame.tag), char::from(tag), "of {tags}; before: {frames:?}; got {frame}");
            frames.push(frame);
        }
        frames
    }

    // ---- login --------------------------------------------------------------------------------------

    /// A whole login over TCP with protocol 3.0; panics with the server's words when it is refused.
    pub async fn login(address: &str, user: &str, password: &str, database: &str) -> Self {
        let mut raw = Self::tcp(address).await;
        let params = [("user", user), ("database", database)];
        let frames = raw.start(V3_0, &params, password).await;
        assert!(frames.last().is_some_and(|last| last.tag == b'Z'), "login as {user}: {frames:?}");
        raw
    }

    /// Startup packet and whatever authentication is asked for; the messages after it, up to
    /// ReadyForQuery, an error or the end.
    pub async fn start(&mut self, version: u32, params: &[(&str, &str)], password: &str) -> Vec<Frame> {
        self.send(&startup(version, params)).await;
        self.authenticate(password).await
    }

    /// Answers authentication requests; the messages that are none.
    pub async fn authenticate(&mut self, password: &str) -> Vec<Frame> {
        let mut scram = Scram::new(password);
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            if frame.tag == b'R' {
                self.authentication(&frame, password, &mut scram).await;
                continue;
            }
            let last = matches!(frame.tag, b'Z' | b'E');
            frames.push(frame);
            if last {
                break;
            }
        }
        frames
    }

    async fn authentication(&mut self, frame: &Frame, password: &str, scram: &mut Scram) {
        let rest = &frame.body[4..];
        match u32::from_be_bytes(frame.body[..4].try_into().unwrap()) {
            0 => {}
            3 => self.send(&message(b'p', &cstr(password))).await,
            10 => {
                assert!(text(rest).split('\0').any(|name| name == "SCRAM-SHA-256"), "{frame}");
                let first = scram.first();
                let mut body = cstr("SCRAM-SHA-256");
                body.extend(u32::try_from(first.len()).unwrap().to_be_bytes());
                body.extend(first.bytes());
                self.send(&message(b'p', &body)).await;
            }
            11 => {
                let answer = scram.answer(&text(rest));
                self.send(&message(b'p', answer.as_bytes())).await;
            }
            12 => assert!(scram.accepts(&text(rest)), "the server's signature is wrong: {frame}"),
            other => panic!("authentication method {other} is not spoken here"),
        }
    }

    // ---- statements ---------------------------------------------------------------------------------

    /// A simple query and everything up to ReadyForQuery.
    pub async fn query(&mut self, sql: &str) -> Vec<Frame> {
        self.send(&query(sql)).await;
        self.until(b'Z').await
    }

    /// A simple query whose connection may end; everything up to ReadyForQuery or the end.
    pub async fn query_to_end(&mut self, sql: &str) -> Vec<Frame> {
        let sent = self.try_send(&query(sql)).await;
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            let last = frame.tag == b'Z';
            frames.push(frame);
            if last && sent {
                break;
            }
        }
        frames
    }

    /// The first column of the first row of a simple query.
    pub async fn value(&mut self, sql: &str) -> String {
        let frames = self.query(sql).await;
        let row = frames.iter().find(|frame| frame.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("{sql}: no row in {frames:?}"));
        row.columns()[0].clone().unwrap_or_default()
    }

    /// The SQLSTATE of a simple query that must fail.
    pub async fn error(&mut self, sql: &str) -> String {
        let frames = self.query(sql).await;
        let error = frames.iter().find(|frame| frame.tag == b'E');
        error.unwrap_or_else(|| panic!("{sql}: no error in {frames:?}")).sqlstate()
    }

    /// The process id of its server connection. Where those are shared it counts for the transaction only.
    pub async fn backend_pid(&mut self) -> i32 {
        self.value("SELECT pg_backend_pid()").await.parse().unwrap()
    }

    /// Is the connection alive and idle?
    pub async fn is_alive(&mut self) -> bool {
        self.try_send(&query("SELECT 1")).await && {
            let mut seen = 0;
            while let Some(frame) = self.next().await {
                seen = frame.tag;
                if seen == b'Z' {
                    break;
                }
            }
            seen == b'Z'
        }
    }

    /// Sends CancelRequest for this session over a connection of its own.
    pub async fn cancel(&self, address: &str) {
        let mut raw = Self::tcp(address).await;
        raw.send(&cancel_request(self.pid, &self.key)).await;
        let end = tokio::time::timeout(LIMIT, raw.end()).await.expect("the answer to a cancel is the end");
        assert_eq!(end, [], "a cancel request gets no answer");
    }
}

// ---- messages -------------------------------------------------------------------------------------------

/// A message with a type.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A message without one, as at startup.
pub fn untyped(body: &[u8]) -> Vec<u8> {
    message(0, body).split_off(1)
}

/// Text with its terminator.
pub fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// StartupMessage
pub fn startup(version: u32, params: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in params {
        body.extend(cstr(name));
        body.extend(cstr(value));
    }
    body.push(0);
    untyped(&body)
}

/// SSLRequest
pub fn ssl_request() -> Vec<u8> {
    untyped(&80_877_103_u32.to_be_bytes())
}

/// GSSENCRequest
pub fn gssenc_request() -> Vec<u8> {
    untyped(&80_877_104_u32.to_be_bytes())
}

/// CancelRequest
pub fn cancel_request(pid: i32, key: &[u8]) -> Vec<u8> {
    untyped(&[&80_877_102_u32.to_be_bytes(), &pid.to_be_bytes(), key].concat())
}

/// Query
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &cstr(sql))
}

/// Parse without parameter types
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[cstr(name), cstr(sql), vec![0, 0]].concat())
}

/// Bind with text parameters and results
pub fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(statement), vec![0, 0]].concat();
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// Describe; `kind` is `S` or `P`.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[vec![kind], cstr(name)].concat())
}

/// Close; `kind` is `S` or `P`.
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[vec![kind], cstr(name)].concat())
}

/// Execute with a row limit; 0 is none.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[cstr(portal), rows.to_be_bytes().to_vec()].concat())
}

/// Sync
pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// Flush
pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

/// Terminate
pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

/// CopyData
pub fn copy_data(bytes: &[u8]) -> Vec<u8> {
    message(b'd', bytes)
}

/// CopyDone
pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

/// CopyFail
pub fn copy_fail(why: &str) -> Vec<u8> {
    message(b'f', &cstr(why))
}

/// FunctionCall with text arguments and a text result
pub fn function_call(oid: u32, values: &[&str]) -> Vec<u8> {
    let mut body = [oid.to_be_bytes().to_vec(), vec![0, 0]].concat();
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.bytes());
    }
    body.extend([0, 0]);
    message(b'F', &body)
}
