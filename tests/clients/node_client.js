// ssh2-sftp-client through one habit of habits.py: node_client.js HABIT PORT USER KEY REMOTE LOCAL HEAD
const fs = require("fs");
const Client = require("ssh2-sftp-client");

const [habit, port, username, key, remote, local, head] = process.argv.slice(2);

const habits = {
    put: (sftp) => sftp.put(local, remote),
    chunks: (sftp) => sftp.fastPut(local, remote, { concurrency: 16 }),
    rename: async (sftp) => {
        await sftp.put(local, `${remote}.tmp`);
        await sftp.rename(`${remote}.tmp`, remote);
    },
    again: async (sftp) => {
        await sftp.put(head, remote);
        await sftp.put(local, remote);
    },
    touch: async (sftp) => {
        await sftp.put(Buffer.alloc(0), remote);
        await sftp.put(local, remote);
    },
    resume: async (sftp) => {
        const { size } = await sftp.stat(remote);
        await sftp.append(fs.createReadStream(local, { start: size }), remote);
    },
    held: (sftp) => sftp.put(local, remote),
};

async function main() {
    const sftp = new Client();
    await sftp.connect({ host: "127.0.0.1", port: Number(port), username, privateKey: fs.readFileSync(key) });
    await habits[habit](sftp);
    await sftp.end();
}

main().catch((error) => {
    console.error(error.message);
    process.exit(1);
});
