//! The queries that load a catalogue: five texts, each about one kind of [`super::Facts`], and one that tells whether they have
//! to be asked.
//!
//! In: nothing. Out: SQL for PostgreSQL 14 and later. Must not know who runs it. Any role that may connect can run all of
//! them: they read only what every role may read. They must see one state of the database: run them in one transaction,
//! `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`, on the primary or on a standby.

/// What the server counts of changes to its catalogue, as one text: while that stays the same, nothing has to be read again.
/// NULL where it cannot tell: a standby counts nothing. Counters come late, by a second or more.
pub const CHANGES: &str = "\
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() OR pg_catalog.current_setting('track_counts') = 'off' THEN NULL
    ELSE pg_catalog.concat_ws(' ', pg_catalog.pg_postmaster_start_time(),
        (SELECT pg_catalog.pg_stat_get_db_stat_reset_time(oid) FROM pg_catalog.pg_database
            WHERE datname = pg_catalog.current_database()),
        sum(pg_catalog.pg_stat_get_tuples_inserted(oid)), sum(pg_catalog.pg_stat_get_tuples_updated(oid)),
        sum(pg_catalog.pg_stat_get_tuples_deleted(oid)))
    END
FROM pg_catalog.pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relname IN (
    'pg_aggregate', 'pg_amproc', 'pg_attrdef', 'pg_attribute', 'pg_cast', 'pg_class', 'pg_constraint', 'pg_depend',
    'pg_inherits', 'pg_namespace', 'pg_operator', 'pg_policy', 'pg_proc', 'pg_range', 'pg_rewrite', 'pg_trigger',
    'pg_type')";

/// Functions, aggregates and window functions that are not PostgreSQL's own: OID, schema, name, whether volatile, whether a
/// row may be the only argument. Procedures are left out: only CALL runs them.
pub const FUNCTIONS: &str = "\
SELECT p.oid, n.nspname::text, p.proname::text, p.provolatile = 'v',
    (p.pronargs - p.pronargdefaults <= 1 AND p.pronargs >= 1 AND EXISTS (
        SELECT FROM pg_catalog.pg_type t WHERE t.oid = p.proargtypes[0] AND t.typtype IN ('c', 'd', 'p')))
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.prokind <> 'p' AND (p.oid >= 16384 OR n.nspname <> 'pg_catalog')";

/// Relations that can be read: OID, schema, name, kind, whether unlogged. Temporary ones are left out: a session that has any
/// stays where it made them.
pub const RELATIONS: &str = "\
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'u'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'";

/// Types that are not PostgreSQL's own, the row types of relations among them: OID, schema, name.
pub const TYPES: &str = "\
SELECT t.oid, n.nspname::text, t.typname::text
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE (t.oid >= 16384 OR n.nspname <> 'pg_catalog') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'";

/// Operators that are not PostgreSQL's own: OID, name.
pub const OPERATORS: &str = "SELECT oid, oprname::text FROM pg_catalog.pg_operator WHERE oid >= 16384";

/// Who uses what when it is evaluated: the user's letter and OID, the used thing's letter and OID, and for a function of
/// PostgreSQL's own its name and whether it is volatile. Letters as in [`super::Node::of`].
///
/// Dependencies on PostgreSQL's own functions are recorded nowhere, so those of views, policies, checks of domains and
/// defaults of arguments are read out of the stored trees. A type is said to use the functions of its casts, operators and
/// operator classes, since no text need show that they are called; between two types of PostgreSQL's own an operator is only
/// called where its name is seen.
///
/// The trees are cut at their fields: a regular expression over all of them takes three times as long, and they are by far the
/// most that is read.
pub const USES: &str = r"
WITH tree (kind, oid, body) AS (
    SELECT 'r', ev_class, ev_action::text FROM pg_catalog.pg_rewrite WHERE ev_type = '1'
    UNION ALL
    SELECT 'r', polrelid, polqual::text FROM pg_catalog.pg_policy
    WHERE polcmd IN ('r', '*') AND polqual IS NOT NULL
    UNION ALL
    SELECT 't', contypid, conbin::text FROM pg_catalog.pg_constraint
    WHERE contypid <> 0 AND conbin IS NOT NULL
    UNION ALL
    SELECT 'f', oid, proargdefaults::text FROM pg_catalog.pg_proc
    WHERE oid >= 16384 AND proargdefaults IS NOT NULL
), field (kind, oid, name, value) AS (
    SELECT DISTINCT kind, oid, split_part(piece, ' ', 1), split_part(piece, ' ', 2)
    FROM tree, string_to_table(body, ' :') piece
    WHERE split_part(piece, ' ', 1) IN ('relid', 'funcid', 'opfuncid', 'aggfnoid', 'winfnoid', 'tsmhandler')
        OR piece LIKE '%type _____%'
), use (kind, oid, used_kind, used) AS (
    SELECT kind, oid, CASE WHEN name = 'relid' THEN 'r' WHEN name LIKE '%type' THEN 't' ELSE 'f' END,
        substring(value FROM '^[1-9]\d*')::oid
    FROM field WHERE value ~ '^[1-9]' AND (name LIKE '%type' OR name LIKE '%id' OR name = 'tsmhandler')
    UNION ALL
    SELECT 'r', inhparent, 'r', inhrelid FROM pg_catalog.pg_inherits
    UNION ALL
    SELECT 'r', oid, 't', reltype FROM pg_catalog.pg_class WHERE reltype >= 16384
    UNION ALL
    SELECT 'r', a.attrelid, 't', a.atttypid FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
    UNION ALL
    SELECT 't', t.oid, 't', a.atttypid FROM pg_catalog.pg_type t
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid
    WHERE t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
    UNION ALL
    SELECT 't', t.oid, 't', part FROM pg_catalog.pg_type t, unnest(ARRAY[t.typelem, t.typbasetype]) part
    WHERE part >= 16384
    UNION ALL
    SELECT 't', t.oid, 'f', part FROM pg_catalog.pg_type t, unnest(ARRAY[t.typinput::oid, t.typoutput::oid]) part
    WHERE t.oid >= 16384 AND part >= 16384
    UNION ALL
    SELECT 't', r.rngtypid, 't', r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngsubtype >= 16384
    UNION ALL
    SELECT 't', r.rngmultitypid, 't', r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngtypid >= 16384
    UNION ALL
    SELECT 't', r.rngtypid, 'f', part
    FROM pg_catalog.pg_range r, unnest(ARRAY[r.rngcanonical::oid, r.rngsubdiff::oid]) part
    WHERE r.rngtypid >= 16384 AND part <> 0
    UNION ALL
    SELECT 't', part, 'f', c.castfunc FROM pg_catalog.pg_cast c, unnest(ARRAY[c.castsource, c.casttarget]) part
    WHERE c.oid >= 16384 AND c.castfunc <> 0
        AND (part >= 16384 OR (c.castsource < 16384 AND c.casttarget < 16384))
    UNION ALL
    SELECT 't', part, 'f', o.oprcode::oid FROM pg_catalog.pg_operator o, unnest(ARRAY[o.oprleft, o.oprright]) part
    WHERE o.oid >= 16384 AND part >= 16384 AND o.oprcode <> 0
    UNION ALL
    SELECT 'o', o.oid, 'f', o.oprcode::oid FROM pg_catalog.pg_operator o WHERE o.oid >= 16384 AND o.oprcode <> 0
    UNION ALL
    SELECT 't', part, 'f', a.amproc::oid
    FROM pg_catalog.pg_amproc a, unnest(ARRAY[a.amproclefttype, a.amprocrighttype]) part
    WHERE a.oid >= 16384 AND part >= 16384
    UNION ALL
    SELECT 'f', p.oid, 't', part FROM pg_catalog.pg_proc p,
        unnest(p.proargtypes::oid[] || p.prorettype || coalesce(p.proallargtypes, '{}')) part
    WHERE p.oid >= 16384 AND part >= 16384
    UNION ALL
    SELECT 'f', a.aggfnoid::oid, 'f', part FROM pg_catalog.pg_aggregate a, unnest(ARRAY[
        a.aggtransfn::oid, a.aggfinalfn::oid, a.aggcombinefn::oid, a.aggserialfn::oid, a.aggdeserialfn::oid,
        a.aggmtransfn::oid, a.aggminvtransfn::oid, a.aggmfinalfn::oid]) part
    WHERE a.aggfnoid >= 16384 AND part <> 0
)
SELECT DISTINCT u.kind, u.oid, u.used_kind, u.used, p.proname::text, coalesce(p.provolatile = 'v', false)
FROM use u LEFT JOIN pg_catalog.pg_proc p ON u.used_kind = 'f' AND p.oid = u.used AND p.oid < 16384
WHERE (u.kind <> u.used_kind OR u.oid <> u.used) AND CASE u.used_kind
    WHEN 'r' THEN true
    WHEN 't' THEN u.used >= 16384
    ELSE u.used >= 16384 OR p.provolatile <> 'i' OR p.proname LIKE 'pg\_%' END";
