//! The messages we originate, toward clients and toward servers (section 55.7).
//!
//! Each function appends one message to `out`. Must not know when it is sent.

/// Appends one message: tag, length, and the body that `fill` writes.
pub fn message(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    sized(out, fill);
}

/// Appends tag and length of a message whose body of `body_len` bytes follows.
pub fn header(out: &mut Vec<u8>, tag: u8, body_len: usize) {
    out.push(tag);
    let length = i32::try_from(body_len.saturating_add(4)).unwrap_or(i32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
}

/// Appends a length field and what it covers.
fn sized(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    // The messages we make are small; one beyond 2 GiB cannot be expressed in the protocol at all.
    let length = i32::try_from(out.len() - start).unwrap_or(i32::MAX);
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends bytes and the zero that ends them; bytes after an inner zero are dropped, as C would.
pub fn cstr(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.push(0);
}

/// StartupMessage with the given protocol version and parameters, in order.
pub fn startup_packet<'a>(out: &mut Vec<u8>, version: u32, params: impl Iterator<Item = (&'a str, &'a str)>) {
    sized(out, |body| {
        body.extend_from_slice(&version.to_be_bytes());
        for (name, value) in params {
            cstr(body, name);
            cstr(body, value);
        }
        body.push(0);
    });
}

/// SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    sized(out, |body| body.extend_from_slice(&super::startup::SSL_REQUEST.to_be_bytes()));
}

/// CancelRequest with a key of any length (4 bytes up to protocol 3.0, up to 256 in 3.2).
pub fn cancel_request(out: &mut Vec<u8>, pid: i32, key: &[u8]) {
    sized(out, |body| {
        body.extend_from_slice(&super::startup::CANCEL_REQUEST.to_be_bytes());
        body.extend_from_slice(&pid.to_be_bytes());
        body.extend_from_slice(key);
    });
}

/// PasswordMessage.
pub fn password(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    message(out, b'p', |body| cstr(body, text));
}

/// SASLInitialResponse.
pub fn sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    message(out, b'p', |body| {
        cstr(body, mechanism);
        body.extend_from_slice(&(data.len() as i32).to_be_bytes());
        body.extend_from_slice(data);
    });
}

/// SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, b'p', |body| body.extend_from_slice(data));
}

/// Query.
pub fn query(out: &mut Vec<u8>, sql: impl AsRef<[u8]>) {
    message(out, b'Q', |body| cstr(body, sql));
}

/// Flush.
pub fn flush(out: &mut Vec<u8>) {
    message(out, b'H', |_| {});
}

/// Sync.
pub fn sync(out: &mut Vec<u8>) {
    message(out, b'S', |_| {});
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    message(out, b'X', |_| {});
}

fn authentication(out: &mut Vec<u8>, kind: i32, fill: impl FnOnce(&mut Vec<u8>)) {
    message(out, b'R', |body| {
        body.extend_from_slice(&kind.to_be_bytes());
        fill(body);
    });
}

/// AuthenticationOk.
pub fn auth_ok(out: &mut Vec<u8>) {
    authentication(out, 0, |_| {});
}

/// AuthenticationCleartextPassword.
pub fn auth_cleartext(out: &mut Vec<u8>) {
    authentication(out, 3, |_| {});
}

/// AuthenticationMD5Password.
pub fn auth_md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    authentication(out, 5, |body| body.extend_from_slice(&salt));
}

/// AuthenticationSASL with the mechanisms we offer, best first.
pub fn auth_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    authentication(out, 10, |body| {
        for mechanism in mechanisms {
            cstr(body, mechanism);
        }
        body.push(0);
    });
}

/// AuthenticationSASLContinue.
pub fn auth_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 11, |body| body.extend_from_slice(data));
}

/// AuthenticationSASLFinal.
pub fn auth_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 12, |body| body.extend_from_slice(data));
}

/// ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    message(out, b'S', |body| {
        cstr(body, name);
        cstr(body, value);
    });
}

/// BackendKeyData with a key of any length.
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, key: &[u8]) {
    message(out, b'K', |body| {
        body.extend_from_slice(&pid.to_be_bytes());
        body.extend_from_slice(key);
    });
}

/// ReadyForQuery with the transaction status byte `I`, `T` or `E`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    message(out, b'Z', |body| body.push(status));
}

/// CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |body| cstr(body, tag));
}

/// NegotiateProtocolVersion: the newest minor version we speak (as a full version number) and the options we do not know.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, version: u32, unknown: &[String]) {
    message(out, b'v', |body| {
        body.extend_from_slice(&version.to_be_bytes());
        body.extend_from_slice(&(unknown.len() as i32).to_be_bytes());
        for option in unknown {
            cstr(body, option);
        }
    });
}
