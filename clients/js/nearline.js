/**
 * Nearline in a page: sends what a visitor does, and reads what to show. One file, no dependencies, an ES module.
 *
 *     import { Nearline } from "./nearline.js";
 *     const nearline = new Nearline({ events: "https://events.shop.example", key: "nl_…" });   // a publishable key
 *     nearline.consent(true);                                                                 // once the visitor agreed
 *     nearline.track("click", "22423");
 *
 * Without consent nothing is stored and nothing is sent. A publishable key can only send events; to read, a page
 * presents a token that the shop's backend signed for its user (docs/operations.md).
 */

/**
 * @typedef {"view"|"click"|"add_to_cart"|"purchase"|"like"|"dislike"|"skip"} EventType
 *
 * @typedef {object} Options
 * @property {string} events base URL of the ingest service
 * @property {string} key a publishable key: of scope `events` and nothing else
 * @property {string} [answers] base URL of the retrieval service, for `recommend`
 * @property {() => (string|Promise<string>)} [token] gives a token of the user that may read; asked again when one expired
 * @property {string} [userId] the user who is logged in; without it events belong to the session
 * @property {number} [batch] events that go out at once (50, and no more with a publishable key)
 * @property {number} [lingerMs] how long an event waits for others (1000)
 * @property {number} [mostQueued] events that wait at most; beyond it the oldest are dropped and counted (1000)
 * @property {number} [attempts] how often something is tried (5)
 * @property {(problem: Refusal) => void} [onRefused] told of every event that was refused or given up
 *
 * @typedef {{event: ShopEvent, field: string, problem: string}} Refusal
 *
 * @typedef {object} ShopEvent
 * @property {string} event_id
 * @property {string} user_id
 * @property {string} item_id
 * @property {EventType} type
 * @property {number} time_ms
 * @property {number} [value]
 * @property {Record<string, unknown>} [context]
 * @property {string} [request_id]
 */

const SESSION = "nearline.session";
const CONSENT = "nearline.consent";
const KEEPALIVE_BYTES = 60_000; // browsers take 64 KiB of such requests at a time
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 10_000;

/** What a service refused: never the same way again. */
export class Refused extends Error {
  /** @param {number} status @param {Array<{field: string, problem: string}>} detail */
  constructor(status, detail) {
    super(detail.map((one) => (one.field ? `${one.field}: ${one.problem}` : one.problem)).join("; ") || `status ${status}`);
    this.status = status;
    this.detail = detail;
    /** what is wrong with; empty if it is the request as a whole */
    this.field = detail[0]?.field ?? "";
  }
}

/** The service is away, or takes no more for now: come again later. */
export class Unavailable extends Error {
  /** @param {string} message @param {number} retryAfterMs */
  constructor(message, retryAfterMs = 0) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

export class Nearline {
  /** @type {ShopEvent[]} */ #waiting = [];
  /** @type {Promise<void>|null} */ #sending = null;
  /** @type {ReturnType<typeof setTimeout>|null} */ #timer = null;
  /** @type {string|null} */ #token = null;
  /** @type {string|null} */ #session = null;
  #failures = 0;

  /** @param {Options} options */
  constructor(options) {
    this.options = { batch: 50, lingerMs: 1000, mostQueued: 1000, attempts: 5, ...options };
    /** events that were dropped because too many waited */
    this.dropped = 0;
    this.userId = options.userId ?? null;
    globalThis.document?.addEventListener?.("visibilitychange", () => {
      if (globalThis.document.visibilityState === "hidden") this.#leave();
    });
    globalThis.addEventListener?.("pagehide", () => this.#leave());
  }

  /** Whether the visitor has agreed, on this page or an earlier one. @returns {boolean} */
  get hasConsent() {
    return stored(CONSENT) === "yes";
  }

  /**
   * Say whether the visitor agrees to be remembered. Withdrawn, what was stored is removed and what waits is forgotten.
   * @param {boolean} given
   */
  consent(given) {
    if (given) return store(CONSENT, "yes");
    store(CONSENT, null);
    store(SESSION, null);
    this.#session = null;
    this.#waiting = [];
  }

  /**
   * The id of this visitor's session, the same on every page of the site; null without consent.
   * After a login the backend merges it: `POST /users/{user}/merge` with this as `session_id`.
   * @returns {string|null}
   */
  get sessionId() {
    if (!this.hasConsent) return null;
    this.#session ??= stored(SESSION) ?? `s-${newId()}`;
    store(SESSION, this.#session);
    return this.#session;
  }

  /** From now on events belong to this user (null: to the session again). @param {string|null} userId */
  identify(userId) {
    this.userId = userId;
    this.#token = null;
  }

  /**
   * Note what the visitor did to an item; it is sent soon, also if the page is left. Without consent nothing happens.
   * @param {EventType} type
   * @param {string} itemId
   * @param {{value?: number, context?: Record<string, unknown>, request_id?: string}} [more]
   * @returns {string|null} the event's id, for `after` of the next answer
   */
  track(type, itemId, more = {}) {
    const session = this.sessionId;
    if (session === null) return null;
    const event = { event_id: newId(), user_id: this.userId ?? session, item_id: itemId, type, time_ms: Date.now(), ...more };
    this.#waiting.push(event);
    while (this.#waiting.length > this.options.mostQueued) {
      this.#refuse(/** @type {ShopEvent} */ (this.#waiting.shift()), "", "too many events waited");
      this.dropped += 1;
    }
    if (this.#waiting.length >= this.options.batch) void this.flush();
    else this.#timer ??= setTimeout(() => void this.flush(), this.options.lingerMs);
    return event.event_id;
  }

  /** Send what waits; resolved when it is in the log, was refused, or waits for a later attempt. @returns {Promise<void>} */
  flush() {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = null;
    });
    return this.#sending;
  }

  /**
   * Items for the user who is logged in; needs `answers` and `token`.
   * @param {Record<string, any>} [options] k, filter, exclude, context, after, scenario, … as docs/api.md says
   * @returns {Promise<{items: Array<Record<string, unknown>>, request_id: string}>}
   */
  async recommend(options = {}) {
    if (this.userId === null) throw new Error("recommend() is about the user who is logged in: call identify(userId) first");
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(options)) {
      if (name === "context") Object.entries(value).forEach(([part, one]) => query.append(`context.${part}`, one));
      else if (name === "fields") query.append(name, [value].flat().join(","));
      else [value].flat().forEach((one) => query.append(name, String(one)));
    }
    const url = `${this.options.answers}/recommend/${segment(this.userId)}?${query}`;
    try {
      return await this.#patiently(() => this.#read(url));
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 401) throw error;
      this.#token = null; // it expired: the backend makes another
      return await this.#read(url);
    }
  }

  /** @param {string} url */
  async #read(url) {
    this.#token ??= (await this.options.token?.()) ?? null;
    return await asked(url, { headers: this.#token ? { Authorization: `Bearer ${this.#token}` } : {} });
  }

  async #sendAll() {
    while (this.#waiting.length > 0) {
      const batch = this.#nextBatch();
      const sentMs = Date.now();
      try {
        const said = await this.#patiently(() => this.#send(batch, sentMs));
        said.results.forEach((/** @type {any} */ one, /** @type {number} */ at) => {
          if (one.status === "refused") this.#refuse(batch[at], one.field, one.problem);
        });
      } catch (error) {
        if (!(error instanceof Refused) && !(error instanceof Unavailable)) throw error;
        if (error instanceof Unavailable && this.#waiting.length < this.options.mostQueued) {
          this.#later(error.retryAfterMs); // kept: another attempt comes
          return;
        }
        const field = error instanceof Refused ? error.field : "";
        for (const event of batch) this.#refuse(event, field, error.message);
      }
      this.#failures = 0;
      const done = new Set(batch);
      this.#waiting = this.#waiting.filter((event) => !done.has(event));
    }
  }

  /** @returns {ShopEvent[]} the oldest, as many as one request that outlives its page may hold */
  #nextBatch() {
    const batch = [];
    let bytes = 2;
    for (const event of this.#waiting.slice(0, this.options.batch)) {
      bytes += size(event) + 1;
      if (batch.length > 0 && bytes > KEEPALIVE_BYTES) break;
      batch.push(event);
    }
    return batch;
  }

  /**
   * A retry repeats when the batch was first sent and says how long ago that was: the service corrects the events' times
   * by what this device's clock differs from its own.
   * @param {ShopEvent[]} batch @param {number} sentMs
   */
  async #send(batch, sentMs = Date.now()) {
    const body = JSON.stringify(batch);
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${this.options.key}` };
    const keepalive = body.length <= KEEPALIVE_BYTES;
    const clock = `sent_ms=${sentMs}&waited_ms=${Math.max(0, Date.now() - sentMs)}`;
    return await asked(`${this.options.events}/events?${clock}`, { method: "POST", headers, body, keepalive });
  }

  /**
   * The page is left: what waits goes out in requests that outlive it. They carry the key in a header, which
   * `sendBeacon` cannot. Whatever else is under way has ids, so to be sent twice it counts once.
   */
  #leave() {
    if (!this.hasConsent) return;
    let left = KEEPALIVE_BYTES;
    while (this.#waiting.length > 0) {
      const batch = this.#nextBatch();
      left -= size(batch);
      if (left < 0) break;
      this.#waiting.splice(0, batch.length);
      this.#send(batch).catch(() => undefined); // nobody is there any more
    }
  }

  /** @param {number} retryAfterMs */
  #later(retryAfterMs) {
    this.#failures += 1;
    this.#timer ??= setTimeout(() => void this.flush(), retryAfterMs + pause(this.#failures));
  }

  /**
   * @template T
   * @param {() => Promise<T>} call
   * @returns {Promise<T>}
   */
  async #patiently(call) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await call();
      } catch (error) {
        if (!(error instanceof Unavailable) || tries >= this.options.attempts) throw error;
        const waitMs = error.retryAfterMs + pause(tries);
        await new Promise((resolve) => setTimeout(resolve, waitMs));
      }
    }
  }

  /** @param {ShopEvent} event @param {string} field @param {string} problem */
  #refuse(event, field, problem) {
    this.options.onRefused?.({ event, field, problem });
  }
}

/** @param {string} url @param {RequestInit} init @returns {Promise<any>} */
async function asked(url, init) {
  /** @type {Response} */ let response;
  try {
    response = await fetch(url, { ...init, credentials: "omit" });
  } catch (error) {
    throw new Unavailable(`${url} gave no answer: ${error}`);
  }
  const said = await response.json().catch(() => null);
  if (said !== null && (response.ok || (response.status === 422 && Array.isArray(said.results)))) return said;
  if (response.status === 429 || response.status >= 500) {
    const seconds = Number(response.headers.get("Retry-After"));
    throw new Unavailable(`${url} answered ${response.status}`, Number.isFinite(seconds) ? seconds * 1000 : 0);
  }
  throw new Refused(response.status, Array.isArray(said?.detail) ? said.detail : []);
}

/** A pause between nothing and a bound that doubles, so that pages that failed together do not come back together. @param {number} tries */
function pause(tries) {
  return Math.random() * Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (tries - 1));
}

/** @param {string} id */
function segment(id) {
  return /^\.+$/.test(id) ? id.replaceAll(".", "%2E") : encodeURIComponent(id);
}

/** @param {unknown} body */
function size(body) {
  return new TextEncoder().encode(JSON.stringify(body)).length;
}

/** @returns {string} 128 random bits; `randomUUID` is there on secure pages only */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} name @returns {string|null} */
function stored(name) {
  try {
    return globalThis.localStorage?.getItem(name) ?? null;
  } catch {
    return null; // the browser forbids it: as if nothing was stored
  }
}

/** @param {string} name @param {string|null} value */
function store(name, value) {
  try {
    if (value === null) globalThis.localStorage?.removeItem(name);
    else globalThis.localStorage?.setItem(name, value);
  } catch {
    // forbidden: the visitor has no session and nothing is sent
  }
}
