// A receiver of Forewarn's webhooks in one file that needs nothing but Node.js 18 or newer.
//
//     node receiver.mjs serve --secret-file secret.txt
//     node receiver.mjs reconcile --url https://forewarn.example --key-file key.txt --subscription sub_...
//
// What was received is kept in a folder, a file an event, because Node.js 18 has no database of its own:
//
//     store/inbox/0000000004.msg_0a1b2c3d4e5f60718293_4.json   every event once, in the order of sequence
//     store/handled/0000000004.msg_0a1b2c3d4e5f60718293_4.json an empty file for each that was worked off
//     store/alerts/TTC-SEMI-2026-0007.json                     what this example makes of them
//
// Put your own work in the place of `work`; keep the rest.

import { createHmac, randomUUID, timingSafeEqual } from "node:crypto";
import { realpathSync } from "node:fs";
import { link, mkdir, open, readdir, readFile, rename, unlink } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

// Standard Webhooks: refuse what is older or newer, or a recorded request could be sent again for ever.
const TOLERANCE_SECONDS = 5 * 60;
// Events have less than a tenth of it. Without a limit a stranger's request could fill the memory.
const BODY_LIMIT_BYTES = 2 ** 20;
const LOOK_AGAIN_MILLISECONDS = 1000;
// Ids and references become file names, so nothing else may be in them.
const FILE_NAME = /^[A-Za-z0-9_-]{1,128}$/;

/** The request is not from Forewarn, or not fresh; the message says why. */
export class Refused extends Error {}

/** A command cannot go on; the message is one sentence for whoever started it. */
export class Failed extends Error {}

/**
 * Returns if the body was signed, with one of our secrets and not long ago; throws Refused if not.
 *
 * `secrets` are `whsec_` and a key in base64, each; several while a secret is being changed. `headers` are by
 * lower-case name. `body` is a Buffer of the bytes as they came: JSON that was parsed and written again has
 * another signature. `now` is in seconds since 1970.
 */
export function verify(secrets, headers, body, now) {
  const id = headers["webhook-id"];
  const timestamp = headers["webhook-timestamp"];
  const signatures = headers["webhook-signature"];
  if (!id || !timestamp || !signatures) {
    throw new Refused("One of webhook-id, webhook-timestamp and webhook-signature is missing.");
  }
  if (!/^[0-9]{1,12}$/.test(timestamp)) {
    throw new Refused("The webhook-timestamp is not a number of seconds.");
  }
  if (Math.abs(now - Number(timestamp)) > TOLERANCE_SECONDS) {
    throw new Refused("The webhook-timestamp is more than five minutes off.");
  }
  // Node.js reads headers as Latin-1; so this gives back the bytes that came.
  const signed = Buffer.concat([Buffer.from(`${id}.${timestamp}.`, "latin1"), body]);
  // A header may hold several signatures, and some of a version that we do not know.
  const offered = signatures
    .split(" ")
    .filter((one) => one.startsWith("v1,"))
    .map((one) => Buffer.from(one.slice("v1,".length), "latin1"));
  const expected = secrets.map((secret) =>
    Buffer.from(createHmac("sha256", keyOf(secret)).update(signed).digest("base64"), "latin1"),
  );
  // `===` stops at the first byte that differs, and how long it took tells a forger how many were right.
  // timingSafeEqual throws for another length, which tells nothing: every signature is 44 characters.
  const fits = (ours, theirs) => ours.length === theirs.length && timingSafeEqual(ours, theirs);
  if (!expected.some((ours) => offered.some((theirs) => fits(ours, theirs)))) {
    throw new Refused("No signature fits.");
  }
}

/** The key in a secret; throws Failed if it is not `whsec_` and base64. */
function keyOf(secret) {
  // Node.js skips what is not base64, so its form is asked for first.
  const form = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(secret);
  if (!form) {
    throw new Failed("A secret is whsec_ and a key in base64, as POST /v1/subscriptions gave it.");
  }
  return Buffer.from(form[1], "base64");
}

/**
 * Yours: what an event means to you. Here, the newest state of each alert is kept.
 *
 * A crash between this and the note that it was done repeats it: so it must do the same when it is done again.
 * If your work goes to a database, keep the inbox there too, and write both in one transaction.
 *
 * An alert's events arrive in order; those sent again or pulled may not. So an older one never overwrites
 * what a newer one said.
 */
async function work(store, event) {
  if (!event.type.startsWith("alert.")) return; // A challenge, a test, or a type newer than this file.
  const { ref, level, state, title } = event.data.alert;
  if (!FILE_NAME.test(ref)) throw new Error(`This is no reference of an alert: ${ref}`);
  const path = join(store.folder, "alerts", `${ref}.json`);
  const known = JSON.parse((await readIfThere(path)) ?? '{"sequence": 0}');
  if (event.sequence <= known.sequence) return;
  await store.replace(path, JSON.stringify({ sequence: event.sequence, ref, level, state, title }));
}

/** The folder; safe for several processes that store and one that works. One folder a subscription. */
class Store {
  constructor(folder) {
    this.folder = folder;
    this.inbox = join(folder, "inbox");
    this.handled = join(folder, "handled");
    this.making = join(folder, "making");
  }

  async prepare() {
    for (const name of ["inbox", "handled", "making", "alerts"]) {
      await mkdir(join(this.folder, name), { recursive: true, mode: 0o700 });
    }
  }

  /** Stores an event unless it is there; false when it was. Sent twice, it has the same id. */
  async keep(id, event) {
    const name = `${String(event.sequence).padStart(10, "0")}.${id}.json`;
    const made = await this.write(JSON.stringify(event));
    try {
      // A link appears whole or not at all, and only one can: the file system's insert-or-ignore.
      await link(made, join(this.inbox, name));
    } catch (error) {
      if (error.code === "EEXIST") return false;
      throw error;
    } finally {
      await unlink(made);
    }
    await sync(this.inbox);
    return true;
  }

  /** Works off what waits, lowest sequence first, and tells which. */
  async workOff() {
    const handled = new Set(await readdir(this.handled));
    const waiting = (await readdir(this.inbox)).filter((name) => !handled.has(name)).sort();
    for (const name of waiting) {
      const event = JSON.parse(await readFile(join(this.inbox, name), "utf8"));
      await work(this, event);
      await this.replace(join(this.handled, name), "");
      tell({ handled: name.split(".")[1], sequence: event.sequence, type: event.type });
    }
  }

  /** The last sequence before the first gap: sequences begin with 1 and have none. */
  async wholeUntil() {
    const held = new Set((await readdir(this.inbox)).map((name) => Number(name.split(".")[0])));
    let last = 0;
    while (held.has(last + 1)) last += 1;
    return last;
  }

  /** Puts a whole new file in the place of an old one. */
  async replace(path, text) {
    await rename(await this.write(text), path);
    await sync(join(path, ".."));
  }

  /** A new file whose text is on the disk; gives its path. */
  async write(text) {
    const path = join(this.making, randomUUID());
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    return path;
  }
}

/** Names in a folder survive a power failure once the folder is synced; Windows has no such call. */
async function sync(folder) {
  if (process.platform === "win32") return;
  const opened = await open(folder, "r");
  try {
    await opened.sync();
  } finally {
    await opened.close();
  }
}

async function readIfThere(path) {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** The secrets, one a line. Read for every request, so that they can be changed while we run. */
async function secretsIn(path) {
  const secrets = ((await readIfThere(path)) ?? "").split(/\s+/).filter(Boolean);
  if (secrets.length === 0) throw new Failed(`There is no secret in ${path} yet.`);
  secrets.forEach(keyOf);
  return secrets;
}

/** The status, the body and further headers of the answer to one request. */
async function answerTo(store, secretFile, unsubscribing, headers, body) {
  let secrets;
  try {
    secrets = await secretsIn(secretFile);
  } catch (error) {
    tell({ not_ready: error.message });
    return [503, { detail: "Not ready; send it again." }, { "Retry-After": "1" }];
  }
  try {
    verify(secrets, headers, body, Date.now() / 1000);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    // Never 2xx: that would say "delivered", and the event would not come again.
    tell({ refused: error.message });
    return [401, { detail: error.message }, {}];
  }
  if (unsubscribing) return [410, { detail: "We want nothing more." }, {}];
  const id = headers["webhook-id"];
  const event = parsed(body);
  if (!FILE_NAME.test(id) || !Number.isSafeInteger(event?.sequence) || typeof event.type !== "string") {
    return [400, { detail: "It is signed, but is no event of Forewarn's." }, {}];
  }
  let isNew;
  try {
    isNew = await store.keep(id, event);
  } catch (error) {
    tell({ not_stored: error.message }); // The disk is full, say.
    return [503, { detail: "Not stored; send it again." }, { "Retry-After": "30" }];
  }
  tell({ stored: id, sequence: event.sequence, type: event.type, new: isNew });
  if (event.type === "webhook.verify") return [200, { challenge: event.data.challenge }, {}];
  return [200, {}, {}]; // Also when we had it: whoever sends twice did not hear our first answer.
}

function parsed(body) {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch {
    return undefined;
  }
}

/** The bytes of a request as they came; Node.js reads no more than Content-Length says. */
async function bytesOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts);
}

/** One JSON object a line on standard output: a log that programs can read, and strangers not forge. */
function tell(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** Receives until it is told to stop. Put a proxy that speaks TLS before it. */
async function serve(store, options) {
  await store.prepare();
  let working = Promise.resolve();
  // One at a time. Work that fails is tried again, and what came later waits for it, so that the order is kept.
  const workOff = () => {
    working = working
      .then(() => store.workOff())
      .catch((error) => console.error("An event could not be handled; it is tried again.", error));
  };
  const server = createServer(async (request, response) => {
    // A connection that both keep open is sometimes closed by one while the other sends: not worth it here.
    const send = (status, body, more) => {
      response.writeHead(status, { "Content-Type": "application/json", Connection: "close", ...more });
      response.end(JSON.stringify(body));
    };
    try {
      if (request.method !== "POST") return send(405, { detail: "Webhooks are sent with POST." }, { Allow: "POST" });
      const length = request.headers["content-length"];
      if (length === undefined) return send(411, { detail: "Say Content-Length." }, {});
      if (Number(length) > BODY_LIMIT_BYTES) return send(413, { detail: `More than ${BODY_LIMIT_BYTES} bytes.` }, {});
      const body = await bytesOf(request);
      send(...(await answerTo(store, options["secret-file"], options.unsubscribe, request.headers, body)));
      workOff(); // Answered first: the sender waits fifteen seconds at most, and your work may take longer.
    } catch (error) {
      console.error("A request could not be answered.", error);
      if (!response.headersSent) send(500, { detail: "We failed; send it again." }, {});
    }
  });
  server.requestTimeout = 15_000; // Whoever sends a byte a minute does not hold a connection for longer.
  server.on("error", (error) => fail(`Port ${options.port} of ${options.host} cannot be used: ${error.code}.`));
  server.listen(Number(options.port), options.host, () => {
    tell({ listening: `http://${options.host}:${server.address().port}/` });
    workOff(); // What an earlier process stored but did not work off.
    setInterval(workOff, LOOK_AGAIN_MILLISECONDS); // What `reconcile` stored.
  });
  process.on("SIGTERM", () => process.exit(0));
}

/**
 * Pulls what the webhooks did not bring, and tells the sequences that were missing.
 *
 * Asks from the first gap on, and stores under the same ids: an event that arrives meanwhile is kept once.
 * The running receiver, or the next that starts, handles them.
 */
async function reconcile(store, options) {
  await store.prepare();
  const key = (await readFile(options["key-file"], "utf8")).trim();
  const missing = [];
  let after = await store.wholeUntil();
  while (after !== null) {
    const where = `${options.url.replace(/\/+$/, "")}/v1/subscriptions/${options.subscription}/events`;
    const page = await fetchPage(`${where}?limit=200&after=${after}`, key);
    for (const { id, ...event } of page.items) {
      if (!FILE_NAME.test(id)) throw new Failed(`The service gave an id that is none: ${id}`);
      if (await store.keep(id, event)) missing.push(event.sequence);
    }
    after = page.next;
  }
  tell({ missing });
}

/** A JSON object from the API. A redirect is not followed: the key would go along. */
async function fetchPage(url, key) {
  let answer, text;
  try {
    answer = await fetch(url, {
      headers: { Authorization: `Bearer ${key}` },
      redirect: "error",
      signal: AbortSignal.timeout(30_000),
    });
    text = await answer.text();
  } catch (error) {
    throw new Failed(`${url} cannot be reached: ${error.cause?.message ?? error.message}.`);
  }
  if (answer.status !== 200) throw new Failed(`${url} answered ${answer.status}: ${text.slice(0, 500)}`);
  return JSON.parse(text);
}

function fail(sentence) {
  process.stderr.write(`${sentence}\n`);
  process.exit(1);
}

const USAGE = `node receiver.mjs serve --secret-file FILE [--store FOLDER] [--host H] [--port P] [--unsubscribe]
node receiver.mjs reconcile --url URL --key-file FILE --subscription ID [--store FOLDER]`;

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      store: { type: "string", default: "receiver-store" },
      host: { type: "string", default: "127.0.0.1" },
      port: { type: "string", default: "8080" },
      "secret-file": { type: "string" },
      unsubscribe: { type: "boolean", default: false },
      url: { type: "string" },
      "key-file": { type: "string" },
      subscription: { type: "string" },
    },
  });
  const store = new Store(values.store);
  const [command] = positionals;
  if (command === "serve" && values["secret-file"]) return serve(store, values);
  if (command === "reconcile" && values.url && values["key-file"] && values.subscription) {
    return reconcile(store, values);
  }
  throw new Failed(USAGE);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main().catch((error) => fail(error instanceof Failed || error.code ? error.message : error.stack));
}
