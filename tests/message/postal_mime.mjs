// Reads mails with postal-mime: standard input and output are JSON, one list each; octets are in base64.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.argv[2]}/`));
const loaded = await import(pathToFileURL(require.resolve("postal-mime")));
const PostalMime = loaded.default.default ?? loaded.default;

let input = "";
for await (const chunk of process.stdin.setEncoding("utf8")) input += chunk;
const read = [];
for (const mail of JSON.parse(input)) {
  const options = { attachmentEncoding: "base64", forceRfc822Attachments: true };
  const found = await PostalMime.parse(Buffer.from(mail, "base64"), options);
  const { from, to, subject, text, html, attachments } = found;
  read.push({ from, to, subject, text, html, attachments });
}
process.stdout.write(JSON.stringify(read));
