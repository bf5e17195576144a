// pgjdbc: prints what the driver sees; arguments are the port and, for an endpoint with a read-only side, its port.
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
        System.out.println(one(connection, "SELECT pg_backend_pid()").equals(String.valueOf(pid)));
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

    static void cancels(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            System.out.println(state(() -> statement.execute("SELECT pg_sleep(20)")));
        }
        Statement statement = connection.createStatement();
        Thread thread = new Thread(() -> {
            try {
                Thread.sleep(500);
                statement.cancel();
            } catch (Exception error) {
                System.out.println(error);
            }
        });
        thread.start();
        System.out.println(state(() -> statement.execute("SELECT pg_sleep(20)")) + " " + one(connection, "SELECT 'alive'"));
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

    public static void main(String[] args) throws Exception {
        String hosts = "127.0.0.1:" + args[0];
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
                cancels(connection);
                notifications(connection, hosts);
                connection.createStatement().execute("DROP TABLE jd");
            }
        }
        System.out.println(state(() -> connect(hosts, "password", "wrong").close()));
        System.out.println(state(() -> connect("127.0.0.1:" + args[0] + "/nowhere?x=").close()));
    }
}
