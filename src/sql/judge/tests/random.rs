//! Texts put together at random: whatever they are, they are survived, and no arrangement turns a write into a read.

use proptest::prelude::*;

use super::{UTF8, catalogue, verdict};
use crate::sql::lexer::{Lexer, Token};

const READS: [&str; 8] = [
    "select * from t where a = 1",
    "select count(*), now() from t join u using (a) group by b order by c limit 5",
    "with x as (select 1 as a) select x.a::text || 'y' from x, lateral (values (1)) v (b)",
    "values (1, 'a''b'), (2, $$c$$)",
    "table t",
    "select case when a is distinct from b then $1 else array[1, 2] end from t",
    "select distinct on (a) a, e'x' as c from only t as y (a, b) union all (select 1, 2)",
    "show search_path",
];

const WRITES: [&str; 8] = [
    "insert into t values (1)",
    "with x as (delete from t returning *) select * from x",
    "select * from t for no key update",
    "select a into x from t",
    "select nextval('s')",
    "select public.t.writes_row from t",
    "select cast('x' as bad_domain)",
    "select * from view_of_bad_view",
];

const BLANKS: [&str; 7] = [" ", "\n", "/* ; */", "-- ' \n", "/* a /* b */ c */", "\t \r\n", "/**/"];

/// The tokens of a text, as they are written; what touches stays together, since an operator may be several marks.
fn pieces(sql: &str) -> Vec<String> {
    let mut lexer = Lexer::new(sql.as_bytes(), true);
    let mut found: Vec<String> = Vec::new();
    let mut end = 0;
    while let Some(token) = lexer.next() {
        let text = &sql[end..lexer.position()];
        let joined =
            !text.starts_with([' ', '\n', '\t']) && matches!(token, Token::Mark(_) | Token::Number(_));
        end = lexer.position();
        match found.last_mut() {
            Some(last) if joined && "$:<>=|-".contains(last.chars().last().unwrap_or(' ')) => {
                last.push_str(text);
            }
            _ => found.push(text.trim_start().to_owned()),
        }
    }
    found
}

proptest! {
    #[test]
    fn blanks_between_tokens_change_nothing(
        which in 0..READS.len() + WRITES.len(),
        blanks in proptest::collection::vec(0..BLANKS.len(), 64),
    ) {
        let sql = READS.iter().chain(&WRITES).nth(which).unwrap();
        let mut blanked = String::new();
        for (piece, blank) in pieces(sql).iter().zip(blanks.iter().cycle()) {
            blanked.push_str(BLANKS[*blank]);
            blanked.push_str(piece);
        }
        let catalogue = catalogue();
        prop_assert_eq!(verdict(&blanked, UTF8, catalogue), verdict(sql, UTF8, catalogue), "{}", blanked);
    }

    #[test]
    fn one_write_makes_all_a_write(
        reads in proptest::collection::vec(0..READS.len(), 0..4),
        write in 0..WRITES.len(),
        at in 0usize..5,
        separator in prop_oneof![Just(";"), Just(" ;\n; "), Just("; -- x\n")],
    ) {
        let mut all: Vec<&str> = reads.iter().map(|which| READS[*which]).collect();
        let catalogue = catalogue();
        if !all.is_empty() {
            prop_assert_eq!(verdict(&all.join(separator), UTF8, catalogue), "read");
        }
        all.insert(at.min(all.len()), WRITES[write]);
        prop_assert_ne!(verdict(&all.join(separator), UTF8, catalogue), "read");
    }

    #[test]
    fn a_call_that_writes_is_found_wherever_it_stands(
        words in proptest::collection::vec(
            "(select|from|where|t|u|\\(|\\)|,|as|with|x|values|union|all|join|on|using|order by|a|1|'x'|=|::|int|\\[|\\]|distinct|is|not|\
            over|filter|array|case|end|limit|only|lateral|group by|cast|\"q\"|\\.|\\*|\\$1|tablesample|rows|row|table|current_setting|\
            json_object|interval|now|for|into|returning|window|explain|copy|to|stdout|with ordinality|natural|left)",
            0..14,
        ),
        at in 0usize..15,
    ) {
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.insert(at.min(words.len()), "nextval ( 's' )");
        let sql = format!("select {}", words.join(" "));
        let catalogue = catalogue();
        // Behind AS or a dot it is a name of the author's choice; the call is then no call, nor the text a statement.
        let named = ["as nextval", ". nextval"].iter().any(|text| sql.contains(text));
        prop_assert!(named || verdict(&sql, UTF8, catalogue) != "read", "{}", sql);
    }

    #[test]
    fn words_in_any_order_are_survived(
        words in proptest::collection::vec(
            "(select|from|where|t|\\(|\\)|,|as|with|recursive|x|values|union|join|on|;|begin|read only|set|transaction|=|'|\"|\\$|\\$\\$|\
            /\\*|\\*/|--|\n|E'|U&\"|\\.|::|1e|\\[|\\]|explain|show|copy|execute|prepare|cast|operator|:|\\\\|é|\u{0}|distinct|table|only)",
            0..16,
        ),
        standard: bool,
    ) {
        let catalogue = catalogue();
        let context = super::Context { standard_strings: standard, ..UTF8 };
        verdict(&words.join(" "), context, catalogue);
        verdict(&words.concat(), context, catalogue);
    }

    #[test]
    fn any_bytes_are_survived(text in proptest::collection::vec(any::<u8>(), 0..200), standard: bool) {
        let catalogue = catalogue();
        let context = super::Context { standard_strings: standard, encoding: super::Encoding::AsciiSafe };
        super::judge(&text, context, &mut catalogue.seen(None));
        super::judge_prepared(&text, context, &mut catalogue.seen(None));
    }
}
