// pgjdbc: prints what the driver sees; arguments are the port and, for an endpoint with a read-only side, its port, or
// for many clients at once `crowd`.
import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.Properties;
import org.postgresql.PGConnection;

public class Jdbc {
    static Connection connect(String hosts, String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", "app");
        properties.setProperty("password", "secret");
        for (int n = 0; n < options.length; n += 2) properties.setProperty(options[n], options[n + 1]);
        return DriverManager.getConnection("jdbc:postgresql://" + hosts + "/drivers", properties);
    }

    interface Action { void run() throws Exception; }

    static String state(Action action) throws Exception {
        try {
            action.run();
            return "no error";
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    static String one(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    static void basics(Connection connection) throws Exception {
        int pid = connection.unwrap(PGConnection.class).getBackendPID();
        System.out.println("pid " + one(connection, "SELECT pg_backend_pid()").equals(String.valueOf(pid)));
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE jd (id serial PRIMARY KEY, v text)");
            statement.executeUpdate("INSERT INTO jd (v) VALUES ('a'), ('b')", Statement.RETURN_GENERATED_KEYS);
            try (ResultSet keys = statement.getGeneratedKeys()) {
                while (keys.next()) System.out.println(keys.getInt(1));
            }
        }
        for (int n = 0; n < 20; n++) {
            try (PreparedStatement query = connection.prepareStatement("SELECT v FROM jd WHERE id = ?")) {
                query.setInt(1, 1 + n % 2);
                try (ResultSet rows = query.executeQuery()) {
                    rows.next();
                    System.out.print(rows.getString(1) + (n == 19 ? "\n" : " "));
                }
            }
        }
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO jd (v) VALUES (?)")) {
            for (int n = 0; n < 2000; n++) {
                insert.setString(1, "batch " + n);
                insert.addBatch();
            }
            System.out.println(insert.executeBatch().length);
        }
        System.out.println(state(() -> one(connection, "SELECT nothing")));
    }

    static void transactions(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        Savepoint point = connection.setSavepoint("here");
        System.out.println(state(() -> one(connection, "SELECT 1/0")) + " " + state(() -> one(connection, "SELECT 1")));
        connection.rollback(point);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(100);
            long sum = 0;
            try (ResultSet rows = statement.executeQuery("SELECT id FROM jd")) {
                while (rows.next()) sum += rows.getLong(1);
            }
            System.out.println(sum + " " + one(connection, "SHOW transaction_isolation"));
        }
        connection.commit();
        connection.setReadOnly(true);
        System.out.println(state(() -> connection.createStatement().executeUpdate("DELETE FROM jd")));
        connection.rollback();
        connection.setReadOnly(false);
        connection.setAutoCommit(true);
    }

    static void copies(Connection connection) throws Exception {
        var copies = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder rows = new StringBuilder();
        for (int n = 10000; n < 30000; n++) rows.append(n).append("\tcopied\n");
        System.out.println(copies.copyIn("COPY jd FROM STDIN", new StringReader(rows.toString())));
        StringWriter out = new StringWriter();
        System.out.println(copies.copyOut("COPY jd TO STDOUT", out) + " " + out.getBuffer().length());
        System.out.println(state(() -> copies.copyIn("COPY jd FROM STDIN", new StringReader("x\n"))));
    }

    static void cancels(Connection connection, String hosts) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            System.out.println(state(() -> statement.execute("SELECT pg_sleep(60)")));
        }
        Statement statement = connection.createStatement();
        Thread thread = new Thread(() -> {
            // Until the server works on it a statement cannot be cancelled.
            String runs = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%/* ' || 'jdbc */'";
            try (Connection other = connect(hosts)) {
                while (one(other, runs).equals("0"));
                statement.cancel();
            } catch (Exception error) {
                System.out.println(error);
            }
        });
        thread.start();
        String sleep = "SELECT pg_sleep(60) /* jdbc */";
        System.out.println(state(() -> statement.execute(sleep)) + " " + one(connection, "SELECT 'alive'"));
        thread.join();
    }

    static void notifications(Connection connection, String hosts) throws Exception {
        connection.createStatement().execute("LISTEN jd_channel");
        try (Connection other = connect(hosts)) {
            other.createStatement().execute("NOTIFY jd_channel, 'hello'");
        }
        var notes = connection.unwrap(PGConnection.class).getNotifications(10000);
        System.out.println(notes.length + " " + notes[0].getName() + " " + notes[0].getParameter());
    }

    static void targets(String primary, String standby) throws Exception {
        String both = primary + "," + standby;
        for (String hosts : new String[] {both, standby + "," + primary}) {
            for (String type : new String[] {"any", "primary", "secondary", "preferSecondary", "preferPrimary"}) {
                try (Connection connection = connect(hosts, "targetServerType", type)) {
                    System.out.println(type + ": read-only " + one(connection, "SHOW transaction_read_only"));
                }
            }
        }
        System.out.println(state(() -> connect(primary, "targetServerType", "secondary").close()));
        System.out.println(state(() -> connect(standby, "targetServerType", "primary").close()));
    }

    // Prepared on the server from the first use on, a savepoint before every statement, portals read in parts, batches.
    static String member(String hosts, int number) throws Exception {
        long total = 0;
        try (Connection connection = connect(hosts, "prepareThreshold", "1", "autosave", "always",
                "preparedStatementCacheQueries", "8", "reWriteBatchedInserts", String.valueOf(number % 2 == 0))) {
            connection.setSchema("crowd");
            connection.setAutoCommit(false);
            for (int turn = 0; turn < 20; turn++) {
                try (PreparedStatement insert = connection.prepareStatement("INSERT INTO items VALUES (?, ?)")) {
                    for (int row = 0; row < 5; row++) {
                        insert.setInt(1, number);
                        insert.setInt(2, turn);
                        insert.addBatch();
                    }
                    total += insert.executeBatch().length;
                }
                if (state(() -> one(connection, "SELECT 1 / 0")).equals("22012")) total++;
                for (int text = 0; text < turn % 12; text++) {
                    try (PreparedStatement query = connection.prepareStatement("SELECT " + text + " + ?::int")) {
                        query.setInt(1, turn);
                        try (ResultSet rows = query.executeQuery()) {
                            rows.next();
                            total += rows.getInt(1);
                        }
                    }
                }
                connection.commit();
            }
            try (PreparedStatement query = connection.prepareStatement("SELECT turn FROM items WHERE who = ?")) {
                query.setFetchSize(7);
                query.setInt(1, number);
                try (ResultSet rows = query.executeQuery()) {
                    while (rows.next()) total += rows.getInt(1);
                }
            }
            connection.commit();
            connection.setAutoCommit(true);
            var copies = connection.unwrap(PGConnection.class).getCopyAPI();
            total += copies.copyIn("COPY items FROM STDIN", new StringReader((number + "\t1000\n").repeat(50)));
            StringWriter out = new StringWriter();
            total += copies.copyOut("COPY (SELECT turn FROM items WHERE who = " + number + ") TO STDOUT", out);
            return number + " " + total + " " + out.getBuffer().length() + " " + one(connection, "SHOW search_path");
        }
    }

    static void crowd(String hosts) throws Exception {
        String[] told = new String[12];
        Thread[] threads = new Thread[told.length];
        try (Connection connection = connect(hosts)) {
            connection.createStatement().execute("CREATE SCHEMA crowd; CREATE TABLE crowd.items (who int, turn int)");
            for (int n = 0; n < told.length; n++) {
                int number = n;
                threads[n] = new Thread(() -> {
                    try {
                        told[number] = member(hosts, number);
                    } catch (Exception error) {
                        told[number] = error.toString();
                    }
                });
                threads[n].start();
            }
            for (Thread thread : threads) thread.join();
            for (String line : told) {
                System.out.println(line);
                if (line.contains("Exception")) System.exit(1);
            }
            System.out.println(one(connection, "SELECT concat(count(*), ' ', sum(turn)) FROM crowd.items"));
            connection.createStatement().execute("DROP SCHEMA crowd CASCADE");
        }
    }

    public static void main(String[] args) throws Exception {
        String hosts = "127.0.0.1:" + args[0];
        if (args.length > 1 && args[1].equals("crowd")) {
            crowd(hosts);
            return;
        }
        if (args.length > 1) {
            targets(hosts, "127.0.0.1:" + args[1]);
            return;
        }
        for (String mode : new String[] {"extended", "extendedForPrepared", "extendedCacheEverything", "simple"}) {
            System.out.println("-- " + mode);
            try (Connection connection = connect(hosts, "preferQueryMode", mode)) {
                basics(connection);
                transactions(connection);
                copies(connection);
                cancels(connection, hosts);
                notifications(connection, hosts);
                connection.createStatement().execute("DROP TABLE jd");
            }
        }
        System.out.println(state(() -> connect(hosts, "password", "wrong").close()));
        System.out.println(state(() -> connect("127.0.0.1:" + args[0] + "/nowhere?x=").close()));
    }
}
