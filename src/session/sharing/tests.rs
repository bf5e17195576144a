//! Sessions that share backends against sessions that have one each: every answer must be the same.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::wire::frame;

/// What a server does with the messages of one connection, as far as prepared statements go. A statement's text is
/// told by everything that runs it, so that running another one shows.
#[derive(Default)]
struct Server {
    named: HashMap<Vec<u8>, Prepared>,
    unnamed: Option<Prepared>,
    portal: Option<Vec<u8>>,
    skipping: bool,
    /// Counts the changes of the table that "rows" reads.
    table: u32,
}

/// A statement, and the table as it was when it was prepared.
#[derive(Clone)]
struct Prepared {
    text: Vec<u8>,
    table: u32,
}

impl Prepared {
    fn returns_rows(&self) -> bool {
        self.text.starts_with(b"rows")
    }
}

impl Server {
    /// Answers everything in `bytes`.
    fn answer(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some((message, rest)) = frame::split(bytes).unwrap() {
            bytes = rest;
            match message.tag {
                b'S' => {
                    self.skipping = false;
                    self.portal = None;
                    encode::ready_for_query(&mut out, b'I');
                }
                _ if self.skipping => {}
                b'Q' => self.query(frontend::query(message.body).unwrap(), &mut out),
                tag => self.extended(tag, message.body, &mut out),
            }
        }
        assert!(bytes.is_empty(), "half a message was sent: {bytes:?}");
        out
    }

    /// A statement that is about to be used. Without one of this form the error has been told.
    fn revalidate(&mut self, name: &[u8], describes: bool, out: &mut Vec<u8>) -> Option<Prepared> {
        let found = if name.is_empty() { self.unnamed.clone() } else { self.named.get(name).cloned() };
        match found {
            None => self.error("26000", out),
            found if describes => {
                parameters(found.as_ref().unwrap(), out);
                return self.revalidate(name, false, out);
            }
            Some(found) if found.returns_rows() && found.table != self.table => {
                out.extend(shapes::changed_result(None));
                self.skipping = true;
            }
            found => return found,
        }
        None
    }

    fn error(&mut self, code: &str, out: &mut Vec<u8>) {
        self.fail(code, "x", out);
    }

    fn fail(&mut self, code: &str, text: &str, out: &mut Vec<u8>) {
        encode::message(out, b'E', |body| {
            body.extend_from_slice(format!("SERROR\0VERROR\0C{code}\0M{text}\0\0").as_bytes());
        });
        self.skipping = true;
    }

    fn query(&mut self, sql: &[u8], out: &mut Vec<u8>) {
        self.unnamed = None;
        let text = String::from_utf8(sql.to_vec()).unwrap();
        let mut tag = text.clone();
        if text == "DISCARD ALL" {
            self.named.clear();
        } else if let Some(name) = text.strip_prefix("DEALLOCATE ") {
            "DEALLOCATE".clone_into(&mut tag);
            if self.named.remove(name.trim_matches('"').as_bytes()).is_none() {
                self.error("26000", out);
            }
        } else if text.starts_with("bad") {
            self.error("42601", out);
        }
        if !std::mem::take(&mut self.skipping) {
            encode::command_complete(out, &tag);
        }
        encode::ready_for_query(out, b'I');
    }

    fn extended(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) {
        let reply = |out: &mut Vec<u8>, tag| encode::message(out, tag, |_| {});
        match tag {
            b'P' => {
                let parse = frontend::parse(body).unwrap();
                if parse.name.is_empty() {
                    self.unnamed = None;
                }
                if parse.sql.starts_with(b"bad") {
                    return self.error("42601", out);
                }
                if self.named.contains_key(parse.name) {
                    let name = String::from_utf8_lossy(parse.name);
                    return self.fail("42P05", &format!("prepared statement \"{name}\" already exists"), out);
                }
                let prepared = Prepared { text: parse.sql.to_vec(), table: self.table };
                match parse.name {
                    b"" => self.unnamed = Some(prepared),
                    name => drop(self.named.insert(name.to_vec(), prepared)),
                }
                reply(out, b'1');
            }
            b'B' => {
                if let Some(found) = self.revalidate(frontend::bind(body).unwrap().statement, false, out) {
                    self.portal = Some(found.text);
                    reply(out, b'2');
                }
            }
            b'D' => match frontend::named(body) {
                Some(Named::Statement(name)) => {
                    if let Some(found) = self.revalidate(name, true, out) {
                        describe(&found, out);
                    }
                }
                _ => reply(out, b'n'),
            },
            b'E' => match self.portal.clone() {
                Some(text) => {
                    let text = String::from_utf8(text).unwrap();
                    encode::command_complete(out, &format!("{text} of {}", self.table));
                }
                None => self.error("34000", out),
            },
            b'C' => {
                if let Some(Named::Statement(name)) = frontend::named(body) {
                    match name {
                        b"" => self.unnamed = None,
                        name => drop(self.named.remove(name)),
                    }
                }
                reply(out, b'3');
            }
            b'H' => {}
            tag => panic!("message {tag}"),
        }
    }
}

/// The statement's last letter as the type of its only parameter.
fn parameters(prepared: &Prepared, out: &mut Vec<u8>) {
    let letter = *prepared.text.last().unwrap();
    encode::message(out, b't', |body| body.extend([0, 1, 0, 0, 0, letter]));
}

/// The table's number in the name of its only column.
fn describe(prepared: &Prepared, out: &mut Vec<u8>) {
    if !prepared.returns_rows() {
        return encode::message(out, b'n', |_| {});
    }
    encode::message(out, b'T', |body| {
        body.extend([0, 1]);
        encode::cstr(body, format!("column{}", prepared.table));
        body.extend([0; 18]);
    });
}

/// One thing a client sends.
#[derive(Clone, Debug)]
enum Act {
    Parse(u8, u8),
    Bind(u8),
    Describe(u8),
    Execute,
    Close(u8),
    Query(&'static str),
    Deallocate(u8),
    Sync,
    Flush,
}

/// Texts from this one on return rows.
const ROWS: u8 = 4;

fn name(number: u8) -> String {
    if number == 0 { String::new() } else { format!("s{number}") }
}

fn text(number: u8) -> String {
    match number {
        9 => "bad".to_owned(),
        ROWS.. => format!("rows {number}"),
        _ => format!("select {number}"),
    }
}

fn encoded(act: &Act) -> Vec<u8> {
    let mut out = Vec::new();
    let put = |out: &mut Vec<u8>, tag, body: String| {
        encode::message(out, tag, |to| to.extend_from_slice(body.as_bytes()));
    };
    match act {
        Act::Parse(to, what) => put(&mut out, b'P', format!("{}\0{}\0\0\0", name(*to), text(*what))),
        Act::Bind(of) => put(&mut out, b'B', format!("\0{}\0\0\0\0\0\0\0", name(*of))),
        Act::Describe(of) => put(&mut out, b'D', format!("S{}\0", name(*of))),
        Act::Execute => put(&mut out, b'E', "\0\0\0\0\0".to_owned()),
        Act::Close(of) => put(&mut out, b'C', format!("S{}\0", name(*of))),
        Act::Query(sql) => encode::query(&mut out, sql),
        Act::Deallocate(of) => encode::query(&mut out, format!("DEALLOCATE {}", name(*of))),
        Act::Sync => encode::sync(&mut out),
        Act::Flush => put(&mut out, b'H', String::new()),
    }
    out
}

/// A backend that sessions share: a server and what is known to be prepared on it.
struct Shared {
    server: Server,
    carried: Box<Statements>,
}

fn session(number: u64) -> State {
    let mut state = State::new(100_000);
    state.sharing = Some(Box::new(Sharing::new(number, true)));
    state
}

/// Runs `acts` in one lease, all sent at once; what the client gets.
fn lease(state: &mut State, backend: &mut Shared, acts: &[Act]) -> Vec<u8> {
    let carried = std::mem::replace(&mut backend.carried, Box::new(Statements::new(1)));
    state.sharing.as_mut().unwrap().take(carried);
    let mut client = Vec::new();
    let mut sent = Vec::new();
    for act in acts {
        let message = encoded(act);
        let kind = Kind::of(message[0]).unwrap();
        if state.must_wait(kind, &message[HEADER_LEN..]) {
            exchange(state, &mut backend.server, &mut sent, &mut client);
            assert!(!state.must_wait(kind, &message[HEADER_LEN..]));
        }
        while state.must_verify(kind, &message[HEADER_LEN..]) {
            sent.extend_from_slice(state.translated());
            exchange(state, &mut backend.server, &mut sent, &mut client);
        }
        let plan = state.translate(kind, &message, true);
        sent.extend_from_slice(&state.sharing.as_ref().unwrap().bytes);
        match plan {
            Plan::Pass => sent.extend_from_slice(&message),
            Plan::Head(len) => sent.extend_from_slice(&message[len..]),
            Plan::Instead => {}
        }
        fakes(state, &mut client);
    }
    exchange(state, &mut backend.server, &mut sent, &mut client);
    assert!(state.is_quiet(), "{:?}", state.pipeline);
    assert!(!state.sharing.as_ref().unwrap().refused);
    backend.carried = state.sharing.as_mut().unwrap().give().unwrap();
    client
}

/// Sends it, and gives the client what it gets of the answers.
fn exchange(state: &mut State, server: &mut Server, sent: &mut Vec<u8>, client: &mut Vec<u8>) {
    let mut answers = server.answer(&std::mem::take(sent));
    while let Some((message, rest)) = frame::split(&answers).unwrap() {
        let len = answers.len() - rest.len();
        if message.tag == b'E' && state.may_repeat(message.body) {
            let again = state.repeat(message.body);
            answers.extend(server.answer(&again));
        } else {
            if let Some(error) = (message.tag == b'E').then(|| state.renamed(message.body)).flatten() {
                client.extend_from_slice(&error);
            } else if !state.hides(message.tag, message.body) {
                client.extend_from_slice(&answers[..len]);
            }
            state.server_message(message.tag, message.body);
            fakes(state, client);
        }
        answers.drain(..len);
    }
}

fn fakes(state: &mut State, client: &mut Vec<u8>) {
    while let Some(tag) = state.pipeline.take_fake() {
        encode::message(client, tag, |_| {});
    }
}

/// Answers as words, for people.
fn words(mut bytes: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    while let Some((message, rest)) = frame::split(bytes).unwrap() {
        words.push(format!(
            "{} {}",
            message.tag as char,
            String::from_utf8_lossy(message.body).replace('\0', " ")
        ));
        bytes = rest;
    }
    words
}

fn backend(limit: usize) -> Shared {
    Shared { server: Server::default(), carried: Box::new(Statements::new(limit)) }
}

#[test]
fn a_statement_of_one_session_serves_another() {
    let mut shared = backend(5);
    let (mut first, mut second) = (session(1), session(2));
    let acts = [Act::Parse(1, 1), Act::Bind(1), Act::Execute, Act::Sync];
    let told = lease(&mut first, &mut shared, &acts);
    assert_eq!(lease(&mut second, &mut shared, &acts), told);
    assert_eq!(shared.server.named.len(), 1);
    // The first still has it, under its own name.
    let again = lease(&mut first, &mut shared, &[Act::Bind(1), Act::Execute, Act::Sync]);
    assert_eq!(words(&again), ["2 ", "C select 1 of 0 ", "Z I"]);
}

#[test]
fn what_falls_out_is_closed_and_comes_back() {
    let mut shared = backend(1);
    let mut state = session(1);
    lease(&mut state, &mut shared, &[Act::Parse(1, 1), Act::Sync]);
    lease(&mut state, &mut shared, &[Act::Parse(2, 2), Act::Sync]);
    assert_eq!(shared.server.named.len(), 1);
    let told = lease(&mut state, &mut shared, &[Act::Bind(1), Act::Execute, Act::Sync]);
    assert_eq!(words(&told), ["2 ", "C select 1 of 0 ", "Z I"]);
    assert_eq!(shared.server.named.len(), 1);
}

#[test]
fn an_unnamed_statement_is_its_owners() {
    let mut shared = backend(5);
    let (mut first, mut second) = (session(1), session(2));
    lease(&mut first, &mut shared, &[Act::Parse(0, 1), Act::Sync]);
    let told = lease(&mut second, &mut shared, &[Act::Bind(0), Act::Execute, Act::Sync]);
    assert!(words(&told)[0].contains("26000"));
    let told = lease(&mut first, &mut shared, &[Act::Bind(0), Act::Execute, Act::Sync]);
    assert_eq!(words(&told), ["2 ", "C select 1 of 0 ", "Z I"]);
}

/// What a client is told that runs a statement with rows after a change of the table, on the backend where it was
/// prepared and on another.
fn after_a_change(prepare: &[Act], run: &[Act]) -> [Vec<String>; 2] {
    [0, 1].map(|on| {
        let mut backends = [backend(5), backend(5)];
        let mut state = session(1);
        lease(&mut state, &mut backends[0], prepare);
        for backend in &mut backends {
            backend.server.table += 1;
        }
        words(&lease(&mut state, &mut backends[on], run))
    })
}

#[test]
fn a_client_that_does_not_know_the_columns_gets_the_new_ones() {
    let run = [Act::Bind(1), Act::Execute, Act::Sync];
    let told = after_a_change(&[Act::Parse(1, ROWS), Act::Sync], &run);
    let wanted = ["2 ", "C rows 4 of 1 ", "Z I"];
    assert_eq!(told, [wanted, wanted]);
    // One that knows them gets the error, wherever it is.
    let told = after_a_change(&[Act::Parse(1, ROWS), Act::Describe(1), Act::Sync], &run);
    let wanted = words(&shapes::changed_result(None)).remove(0);
    assert_eq!(told, [[wanted.as_str(), "Z I"], [wanted.as_str(), "Z I"]]);
}

#[test]
fn what_has_begun_is_not_run_again() {
    let failed = words(&shapes::changed_result(None)).remove(0);
    let prepare = [Act::Parse(1, ROWS), Act::Parse(2, 1), Act::Sync];
    // Something has run before in the same transaction.
    let run = [Act::Bind(2), Act::Execute, Act::Bind(1), Act::Execute, Act::Sync];
    let [there, _] = after_a_change(&prepare, &run);
    assert_eq!(there, ["2 ", "C select 1 of 1 ", &failed, "Z I"]);
    // The client waits for an answer before it has sent everything, or has sent more.
    let run = [Act::Bind(1), Act::Flush, Act::Execute, Act::Sync];
    let [there, _] = after_a_change(&prepare, &run);
    assert_eq!(there, [&failed, "Z I"]);
    let run = [Act::Bind(1), Act::Execute, Act::Sync, Act::Query("select 7")];
    let [there, _] = after_a_change(&prepare, &run);
    assert_eq!(there, [&failed, "Z I", "C select 7 ", "Z I"]);
}

#[test]
fn names_are_those_of_the_backend() {
    for number in [1, 9, 10, 99, 100, 4_294_967_295] {
        let mut out = Vec::new();
        push_name(&mut out, number);
        assert_eq!(out.len(), name_len(number));
        assert_eq!(out, format!("pgsteer_{number}\0").into_bytes());
    }
}

fn act() -> impl Strategy<Value = Vec<Act>> {
    let small = 0u8..4;
    prop_oneof![
        4 => (small.clone(), prop_oneof![6 => 1u8..ROWS, 1 => Just(9u8)])
            .prop_map(|(to, what)| vec![Act::Parse(to, what)]),
        // Where nobody tells the client, it is spared what its own server would fail for.
        3 => (1u8..4, ROWS..6).prop_map(|(to, what)| vec![Act::Parse(to, what), Act::Describe(to)]),
        5 => small.clone().prop_map(|of| vec![Act::Bind(of)]),
        2 => small.clone().prop_map(|of| vec![Act::Describe(of)]),
        4 => Just(vec![Act::Execute]),
        2 => small.prop_map(|of| vec![Act::Close(of)]),
        1 => Just(vec![Act::Flush]),
        3 => Just(vec![Act::Sync]),
    ]
}

/// Some batches that belong together: extended ones, each up to its Sync, and Queries between them.
fn program() -> impl Strategy<Value = Vec<Act>> {
    let batch = proptest::collection::vec(act(), 0..7).prop_map(|acts| {
        let mut acts = acts.concat();
        acts.push(Act::Sync);
        acts
    });
    let query = prop_oneof![
        Just(vec![Act::Query("select 7")]),
        Just(vec![Act::Query("bad")]),
        Just(vec![Act::Query("DISCARD ALL")]),
        (1u8..4).prop_map(|of| vec![Act::Deallocate(of)]),
    ];
    proptest::collection::vec(prop_oneof![4 => batch, 1 => query], 1..4).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever several sessions do on few backends, each gets what it would get on a connection of its own.
    #[test]
    fn sharing_never_shows(
        limit in 1usize..4,
        steps in proptest::collection::vec((0usize..3, 0usize..2, program(), proptest::bool::weighted(0.2)), 1..12),
    ) {
        let mut states: Vec<State> = (1..4).map(session).collect();
        let mut direct: Vec<Server> = (0..3).map(|_| Server::default()).collect();
        let mut backends: Vec<Shared> = (0..2).map(|_| backend(limit)).collect();
        for (at, (who, on, acts, changes)) in steps.iter().enumerate() {
            let servers = direct.iter_mut().chain(backends.iter_mut().map(|backend| &mut backend.server));
            servers.for_each(|server| server.table += u32::from(*changes));
            let told = lease(&mut states[*who], &mut backends[*on], acts);
            let bytes: Vec<u8> = acts.iter().flat_map(encoded).collect();
            let wanted = direct[*who].answer(&bytes);
            prop_assert_eq!(words(&told), words(&wanted), "step {} of session {}: {:?}", at, who, acts);
            // What was prepared in one lease before the server had answered for any of it.
            let most = limit + 21;
            let kept = backends[*on].server.named.len();
            prop_assert!(kept <= most, "{} statements on the backend", kept);
        }
    }
}
