// Reads, and with a third word writes, a data set through the Hub's own JavaScript client: SHA-256 by path as JSON.
import { createHash } from "node:crypto";

const [library, revision, note] = process.argv.slice(2);
const { commit, downloadFile, listFiles } = await import(library);
const place = {
  repo: { type: "dataset", name: process.env.REPO },
  hubUrl: process.env.HF_ENDPOINT,
  accessToken: process.env.HF_TOKEN,
};
if (note) {
  const content = new Blob([note]);
  await commit({
    ...place, title: "A note", useXet: false,
    operations: [{ operation: "addOrUpdate", path: "notes.txt", content }, { operation: "addOrUpdate", path: "big.bin", content }],
  });
}
const found = {};
for await (const file of listFiles({ ...place, revision, recursive: true })) {
  if (file.type !== "file") continue;
  const blob = await downloadFile({ ...place, path: file.path, revision, xet: false });
  found[file.path] = createHash("sha256").update(Buffer.from(await blob.arrayBuffer())).digest("hex");
}
console.log(JSON.stringify(found));
