// Jakarta Mail sends one message: PORT CHANNEL FROM TO FILE CA USER PASSWORD.
import jakarta.mail.Session;
import jakarta.mail.internet.InternetAddress;
import jakarta.mail.internet.MimeMessage;
import java.io.FileInputStream;
import java.io.InputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Properties;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Send {
    public static void main(String[] arguments) throws Exception {
        var channel = arguments[1];
        var properties = new Properties();
        properties.put("mail.smtp.localhost", "client.test");
        properties.put("mail.smtp.from", arguments[2]);
        // Whoever sets it asks for SMTPUTF8 even where no address needs it.
        var isAscii = (arguments[2] + arguments[3]).chars().allMatch(c -> c < 128);
        properties.put("mail.mime.allowutf8", String.valueOf(!isAscii));
        properties.put("mail.smtp.starttls.required", String.valueOf(channel.equals("starttls")));
        properties.put("mail.smtp.starttls.enable", String.valueOf(channel.equals("starttls")));
        properties.put("mail.smtp.ssl.enable", String.valueOf(channel.equals("tls")));
        properties.put("mail.smtp.auth.mechanisms", "PLAIN");
        properties.put("mail.smtp.ssl.checkserveridentity", "true");
        properties.put("mail.smtp.ssl.socketFactory", trusting(arguments[5]).getSocketFactory());
        var session = Session.getInstance(properties);
        MimeMessage message;
        try (InputStream file = new FileInputStream(arguments[4])) {
            message = new MimeMessage(session, file);
        }
        try (var transport = session.getTransport("smtp")) {
            var user = channel.equals("plain") ? null : arguments[6];
            transport.connect("localhost", Integer.parseInt(arguments[0]), user, arguments[7]);
            InternetAddress[] recipients = {new InternetAddress(arguments[3])};
            transport.sendMessage(message, recipients);
        }
    }

    private static SSLContext trusting(String file) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (InputStream ca = new FileInputStream(file)) {
            var certificate = CertificateFactory.getInstance("X.509").generateCertificate(ca);
            store.setCertificateEntry("ca", certificate);
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }
}
