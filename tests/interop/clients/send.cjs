// nodemailer sends one message: PORT CHANNEL FROM TO FILE CA USER PASSWORD.
const fs = require('node:fs');
const nodemailer = require('nodemailer');

const [port, channel, from, to, file, ca, user, pass] = process.argv.slice(2);
const transport = nodemailer.createTransport({
    // By address: a name would be asked of a resolver that tests do not have.
    host: '127.0.0.1',
    port: Number(port),
    name: 'client.test',
    secure: channel === 'tls',
    requireTLS: channel === 'starttls',
    ignoreTLS: channel === 'plain',
    auth: channel === 'plain' ? undefined : { user, pass },
    authMethod: 'LOGIN',
    tls: { ca: fs.readFileSync(ca), servername: 'localhost' },
});
transport.sendMail({ envelope: { from, to }, raw: fs.readFileSync(file) }).then(
    () => transport.close(),
    (error) => {
        console.error(error);
        process.exitCode = 1;
    },
);
