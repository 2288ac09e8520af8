// The page's client in node: the browser's parts that node lacks are stood in for, the network is real.
import assert from "node:assert/strict";
import { test, beforeEach } from "node:test";

const URL_OF_DOOR = process.env.DOOR;
const KEY = process.env.KEY;

class Storage {
  #kept = new Map();
  getItem(name) { return this.#kept.get(name) ?? null; }
  setItem(name, value) { this.#kept.set(name, String(value)); }
  removeItem(name) { this.#kept.delete(name); }
  get size() { return this.#kept.size; }
}

// A page: it can be left, and its requests can be counted or fail.
const page = new EventTarget();
page.visibilityState = "visible";
globalThis.document = page;
const real = globalThis.fetch;
let requests = [];
let weather = [];
globalThis.fetch = async (url, init) => {
  requests.push({ url, init, body: init.body ? JSON.parse(init.body) : null });
  const step = weather.shift();
  if (step === "down") throw new TypeError("no network");
  if (step) return new Response(JSON.stringify(step.body ?? {}), { status: step.status, headers: step.headers ?? {} });
  return await real(url, init);
};

const { Nearline, Refused, Unavailable } = await import(process.env.MODULE);

async function told(ids) {
  const events = await (await real(`${URL_OF_DOOR}/log`)).json();
  const found = new Map(events.filter((event) => ids.includes(event.event_id)).map((event) => [event.event_id, event]));
  return [...found.values()]; // what is sent twice under one id is one event
}

function client(more = {}) {
  return new Nearline({ events: URL_OF_DOOR, key: KEY, answers: URL_OF_DOOR, lingerMs: 5, ...more });
}

beforeEach(() => {
  globalThis.localStorage = new Storage();
  requests = [];
  weather = [];
  page.visibilityState = "visible";
});

test("without consent nothing is stored and nothing is sent", async () => {
  const nearline = client();
  assert.equal(nearline.track("click", "22423"), null);
  assert.equal(nearline.sessionId, null);
  await nearline.flush();
  assert.equal(localStorage.size, 0);
  assert.equal(requests.length, 0);
});

test("with consent an event of the session is in the log", async () => {
  const nearline = client();
  nearline.consent(true);
  const id = nearline.track("view", "22423", { request_id: "r-1" });
  await nearline.flush();
  const [event] = await told([id]);
  assert.equal(event.user_id, nearline.sessionId);
  assert.deepEqual([event.item_id, event.type, event.request_id], ["22423", "view", "r-1"]);
  assert.equal(requests[0].init.headers.Authorization, `Bearer ${KEY}`);
  assert.equal(requests[0].init.keepalive, true);
});

test("the session outlives the page, and not the consent", () => {
  const first = client();
  first.consent(true);
  const session = first.sessionId;
  assert.equal(client().sessionId, session);
  first.track("click", "22423");
  first.consent(false);
  assert.equal(localStorage.size, 0);
  assert.equal(first.sessionId, null);
  first.consent(true);
  assert.notEqual(first.sessionId, session);
});

test("consent that is withdrawn takes back what waits", async () => {
  const nearline = client({ lingerMs: 10_000 });
  nearline.consent(true);
  nearline.track("click", "22423");
  nearline.consent(false);
  await nearline.flush();
  assert.equal(requests.length, 0);
});

test("events of one who is logged in are that user's", async () => {
  const nearline = client({ userId: "17850" });
  nearline.consent(true);
  const id = nearline.track("click", "22423");
  await nearline.flush();
  assert.equal((await told([id]))[0].user_id, "17850");
});

test("many events go out in few requests, a full batch at once", async () => {
  const nearline = client({ batch: 3, lingerMs: 10_000 });
  nearline.consent(true);
  const ids = ["a", "b", "c", "d"].map((item) => nearline.track("view", item));
  await nearline.flush();
  assert.deepEqual((await told(ids)).map((event) => event.item_id), ["a", "b", "c", "d"]);
  assert.deepEqual(requests.map((one) => one.body.length), [3, 1]);
});

test("an event that lingers is sent without being asked for", async () => {
  const nearline = client({ lingerMs: 1 });
  nearline.consent(true);
  const id = nearline.track("view", "a");
  const until = Date.now() + 5000;
  while ((await told([id])).length === 0 && Date.now() < until) await new Promise((done) => setTimeout(done, 5));
  assert.equal((await told([id])).length, 1);
});

test("what the network loses is sent again under its id", async () => {
  const nearline = client();
  nearline.consent(true);
  weather = ["down", { status: 503, headers: { "Retry-After": "0" } }];
  const id = nearline.track("click", "22423");
  await nearline.flush();
  assert.equal(requests.length, 3);
  assert.deepEqual(new Set(requests.map((one) => one.body[0].event_id)), new Set([id]));
  assert.equal((await told([id])).length, 1);
});

test("a request says when it was first sent, by the device's clock, and how long it has waited since", async () => {
  const nearline = client();
  nearline.consent(true);
  const now = Date.now;
  let clock = Date.UTC(2030, 0, 1); // three years ahead
  Date.now = () => clock;
  try {
    const script = ["down", { status: 503, headers: { "Retry-After": "0" } }];
    weather = { shift: () => { clock += 30_000; return script.shift(); } };
    const id = nearline.track("click", "22423");
    clock += 400;
    await nearline.flush();
    const asked = requests.map((one) => Object.fromEntries(new URL(one.url).searchParams));
    const first = String(Date.UTC(2030, 0, 1) + 400);
    assert.deepEqual(asked.map((one) => [one.sent_ms, one.waited_ms]), [[first, "0"], [first, "30000"], [first, "60000"]]);
    const [event] = await told([id]);
    assert.equal(event.context.device_time_ms, Date.UTC(2030, 0, 1));
  } finally {
    Date.now = now;
  }
});

test("a page that is left says when it was sent", async () => {
  const nearline = client({ lingerMs: 10_000 });
  nearline.consent(true);
  nearline.track("click", "22423");
  page.visibilityState = "hidden";
  page.dispatchEvent(new Event("visibilitychange"));
  const sent = Number(new URL(requests[0].url).searchParams.get("sent_ms"));
  assert.ok(Math.abs(Date.now() - sent) < 10_000);
});

test("Retry-After is waited for", async () => {
  const nearline = client();
  nearline.consent(true);
  weather = [{ status: 429, headers: { "Retry-After": "1" } }];
  nearline.track("click", "22423");
  const started = Date.now();
  await nearline.flush();
  assert.ok(Date.now() - started >= 1000);
  assert.equal(requests.length, 2);
});

test("while the service is away events wait for a later attempt", async () => {
  const nearline = client({ attempts: 2 });
  nearline.consent(true);
  weather = ["down", "down"];
  const id = nearline.track("click", "22423");
  await nearline.flush();
  assert.equal((await told([id])).length, 0);
  await nearline.flush();
  assert.equal((await told([id])).length, 1);
});

test("a refused event is told with its field and does not hold up the others", async () => {
  const refused = [];
  const nearline = client({ onRefused: (one) => refused.push(one) });
  nearline.consent(true);
  const ids = [nearline.track("clack", "22423"), nearline.track("click", "22423")];
  await nearline.flush();
  assert.deepEqual(refused.map((one) => [one.event.event_id, one.field]), [[ids[0], "type"]]);
  assert.equal((await told(ids)).length, 1);
  assert.equal(requests.length, 1);
});

test("a key that is not let in is told for each event, and nothing is kept", async () => {
  const refused = [];
  const nearline = client({ key: "nl_wrong", onRefused: (one) => refused.push(one) });
  nearline.consent(true);
  nearline.track("click", "22423");
  await nearline.flush();
  assert.equal(refused.length, 1);
  assert.equal(refused[0].field, "authorization");
  assert.equal(requests.length, 1);
});

test("the oldest are dropped and counted when too many wait", async () => {
  const refused = [];
  const nearline = client({ mostQueued: 2, lingerMs: 10_000, onRefused: (one) => refused.push(one.event.item_id) });
  nearline.consent(true);
  ["a", "b", "c"].forEach((item) => nearline.track("view", item));
  assert.deepEqual(refused, ["a"]);
  assert.equal(nearline.dropped, 1);
  await nearline.flush();
});

test("a page that is left sends what waits in requests that outlive it", async () => {
  const nearline = client({ lingerMs: 10_000 });
  nearline.consent(true);
  const ids = Array.from({ length: 120 }, (_, n) => nearline.track("view", `i${n}`, { context: { note: "x".repeat(300) } }));
  requests = [];
  page.visibilityState = "hidden";
  page.dispatchEvent(new Event("visibilitychange"));
  assert.ok(requests.every((one) => one.init.keepalive));
  const bytes = requests.reduce((sum, one) => sum + one.init.body.length, 0);
  assert.ok(bytes <= 64 * 1024, `browsers refuse more than 64 KiB, these are ${bytes}`);
  const until = Date.now() + 5000;
  while ((await told(ids)).length < 100 && Date.now() < until) await new Promise((done) => setTimeout(done, 5));
  assert.ok((await told(ids)).length >= 100);
  await nearline.flush();
  assert.equal((await told(ids)).length, 120);
});

test("an answer is asked for with the user's token, and again with a new one when it has expired", async () => {
  const tokens = ["old", "new"];
  const nearline = client({ userId: "u/1", token: async () => tokens.shift() });
  weather = [{ status: 401, body: { detail: [] } }, { status: 200, body: { items: [], request_id: "r" } }];
  const answer = await nearline.recommend({ k: 3, exclude: ["a", "b"], fields: ["title", "price"], context: { device: "phone" } });
  assert.deepEqual(answer, { items: [], request_id: "r" });
  assert.deepEqual(requests.map((one) => one.init.headers.Authorization), ["Bearer old", "Bearer new"]);
  const url = new URL(requests[1].url);
  assert.equal(url.pathname, "/recommend/u%2F1");
  assert.equal(url.search, "?k=3&exclude=a&exclude=b&fields=title%2Cprice&context.device=phone");
});

test("a refused question says which field, an absent service that it is absent", async () => {
  const nearline = client({ userId: "u", token: () => "t", attempts: 2 });
  weather = [{ status: 422, body: { detail: [{ field: "filter", problem: "unknown name 'prize'" }] } }];
  await assert.rejects(nearline.recommend({ filter: "prize < 3" }), (error) => error instanceof Refused && error.field === "filter");
  weather = ["down", "down", "down"];
  await assert.rejects(nearline.recommend(), Unavailable);
  assert.equal(requests.length, 3);
  await assert.rejects(client().recommend(), /identify\(userId\) first/);
});

test("a browser that forbids storage has no session", () => {
  globalThis.localStorage = { getItem() { throw new Error("forbidden"); }, setItem() { throw new Error("forbidden"); } };
  const nearline = client();
  nearline.consent(true);
  assert.equal(nearline.hasConsent, false);
  assert.equal(nearline.track("click", "22423"), null);
});
