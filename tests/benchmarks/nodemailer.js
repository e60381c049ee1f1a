// nodemailer: node nodemailer.js FOLDER PORT COUNT SESSIONS MAIL; prints what it cost, as JSON.
const [folder, port, count, sessions, mail] = process.argv.slice(2);
const nodemailer = require(folder + "/node_modules/nodemailer");
const raw = require("fs").readFileSync(mail);

(async () => {
    const transport = nodemailer.createTransport({
        host: "127.0.0.1", port: Number(port), ignoreTLS: true, name: "client.example",
        pool: true, maxConnections: Number(sessions), maxMessages: Infinity,
    });
    const send = () => transport.sendMail({ envelope: { from: "ann@example.com", to: ["bob@example.com"] }, raw });
    const cpu = process.cpuUsage(), began = process.hrtime.bigint();
    await Promise.all(Array.from({ length: Number(sessions) }, async () => {
        for (let done = 0; done < count / sessions; done++) await send();
    }));
    const seconds = Number(process.hrtime.bigint() - began) / 1e9;
    const used = process.cpuUsage(cpu);
    transport.close();
    console.log(JSON.stringify({ cpu: (used.user + used.system) / 1e6, seconds }));
})();
