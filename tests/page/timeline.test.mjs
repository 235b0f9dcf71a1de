// Tests of the timeline without a page, by Node's own test runner.
import assert from "node:assert/strict";
import { test } from "node:test";
import { planClip } from "../../web/grid.js";
import { described } from "../../web/plan.js";
import * as edit from "../../web/timeline/edit.js";
import { itemsOf } from "../../web/timeline/items.js";
import { clipOf, MAX_ENTRIES, parse, serialise } from "../../web/timeline/list.js";
import { Media } from "../../web/timeline/media.js";
import { Model } from "../../web/timeline/model.js";
import { Player } from "../../web/timeline/player.js";
import { secondsOf } from "../../web/timeline/times.js";
import { fitted, snapped, tickStep, toSeconds, toX, zoomed } from "../../web/timeline/view.js";
import { warningsOf } from "../../web/timeline/warnings.js";

const LIST = {
  format: "ltx2.shots/1",
  clip: { width: 768, height: 512, fps: 24, seconds: 5 },
  prompt: "a hall",
  parts: [
    { from: 0, prompt: "one" },
    { from: 2.5, prompt: "two" },
    { from: "f96", to: "end", prompt: "three" },
  ],
  images: [{ file: "a.png" }, { file: "b.png", at: "end", strength: 0.7 }],
  audio: [{ file: "voice.wav", at: 1.5, trim: [0.5, 2], "x-note": "keep" }],
};
const CLIP = clipOf(LIST);
const lengths = (file) => ({ "voice.wav": 4 })[file];

function starts(list) {
  return itemsOf(list, CLIP).filter((one) => one.track === "parts").map((one) => one.start);
}

test("a list is written as it was read, with numbers of 64 bits and keys of other tools", () => {
  const text = `{"format": "ltx2.shots/1", "clip": {"seed": 18446744073709551615}, "x-ui": {"a": [1, 2.5]},
    "prompt": "12345678901234567890 \\" 99999999999999999999"}`;
  const again = serialise(parse(text).list);
  assert.match(again, /"seed": 18446744073709551615}/);
  assert.deepEqual(JSON.parse(again), JSON.parse(text));
  assert.deepEqual(JSON.parse(serialise(LIST)), LIST);
});

test("what is no shot list is refused with a reason", () => {
  const deep = "[".repeat(1e5);
  const many = { format: "ltx2.shots/1", images: Array(MAX_ENTRIES + 1).fill({ file: "a.png" }) };
  const wrong = ["", "{", "[]", "null", '{"format": "other"}', deep, JSON.stringify(many), "x".repeat(2 ** 22 + 1)];
  wrong.push('{"format": "ltx2.shots/1", "parts": {}}', '{"format": "ltx2.shots/1", "parts": [1]}');
  for (const text of wrong) {
    const { list, error } = parse(text);
    assert.equal(list, null);
    assert.ok(error, text.slice(0, 20));
  }
});

test("times are read as the library reads them", () => {
  const cases = [[2.5, 2.5], ["2.5", 2.5], ["2s", 2], ["0:30", 30], ["1:00:01.5", 3601.5], ["f48", 2], ["50%", CLIP.seconds / 2]];
  for (const [time, seconds] of cases) assert.equal(secondsOf(time, CLIP), seconds, String(time));
  assert.equal(secondsOf("end", CLIP), 120 / 24);
  for (const time of ["soon", -1, null, "f", "5%%", {}]) assert.ok(Number.isNaN(secondsOf(time, CLIP)), String(time));
});

test("a part that is dragged keeps its length, and the written end of the one before goes", () => {
  const list = edit.moved(LIST, CLIP, { track: "parts", index: 1 }, 1);
  assert.deepEqual(starts(list), [0, 1, 2.5]);
  assert.equal(list.parts[2].from, "f60", "a time in frames stays one");
  assert.ok(!("to" in list.parts[2]));
  assert.equal(LIST.parts[1].from, 2.5, "the list before is as it was");
});

test("parts never pass each other, and the first one begins at 0", () => {
  for (const seconds of [-5, 0, 2, 4.9, 50]) {
    for (const index of [0, 1, 2]) {
      for (const list of [
        edit.moved(LIST, CLIP, { track: "parts", index }, seconds),
        edit.trimmed(LIST, CLIP, { track: "parts", index }, "start", seconds),
        edit.trimmed(LIST, CLIP, { track: "parts", index }, "end", seconds),
      ]) {
        const now = starts(list);
        assert.ok(now[0] === 0 && now[0] < now[1] && now[1] < now[2] && now[2] < CLIP.seconds, `${now}`);
        assert.deepEqual(list.parts.map((part) => part.prompt), ["one", "two", "three"]);
      }
    }
  }
});

test("an image at the last frame is at the end", () => {
  const list = edit.moved(LIST, CLIP, { track: "images", index: 0 }, 99);
  assert.equal(list.images[0].at, "end");
  assert.equal(edit.moved(list, CLIP, { track: "images", index: 0 }, 1).images[0].at, 1);
});

test("trimming audio keeps what is heard in its place, and stops at the file", () => {
  const place = { track: "audio", index: 0 };
  const cut = edit.trimmed(LIST, CLIP, place, "start", 2, lengths).audio[0];
  assert.deepEqual([cut.at, cut.trim], [2, [1, 2]]);
  const whole = edit.trimmed(LIST, CLIP, place, "end", 99, lengths).audio[0];
  assert.deepEqual([whole.at, whole.trim, whole["x-note"]], [1.5, [0.5, null], "keep"]);
  assert.deepEqual(edit.trimmed(LIST, CLIP, place, "start", 0, lengths).audio[0].trim, [0, 2]);
});

test("both halves of a split are the whole", () => {
  const { list } = edit.split(LIST, CLIP, { track: "audio", index: 0 }, 2, lengths);
  assert.deepEqual(list.audio.map((one) => [one.at, ...one.trim]), [[1.5, 0.5, 1], [2, 1, 2]]);
  const parts = edit.split(LIST, CLIP, { track: "parts", index: 1 }, 3).list;
  assert.deepEqual(starts(parts), [0, 2.5, 3, 4]);
  assert.equal(edit.split(LIST, CLIP, { track: "images", index: 0 }, 1), null);
  assert.equal(edit.split(LIST, CLIP, { track: "parts", index: 1 }, 4.5), null);
});

test("a copy is a shot list, which another timeline takes at its playhead", () => {
  const from = new Model(() => {});
  from.load(JSON.stringify(LIST));
  from.place = { track: "audio", index: 0 };
  let written = "";
  const to = new Model((text) => (written = text));
  to.load('{"format": "ltx2.shots/1", "prompt": "x"}');
  to.playhead = 3;
  assert.ok(to.paste(from.copy()));
  assert.deepEqual(JSON.parse(written).audio, [{ ...LIST.audio[0], at: 3 }]);
  assert.ok(!to.paste("some text"));
});

test("a drag is one step of undo, and is written once", () => {
  const texts = [];
  const model = new Model((text) => texts.push(text));
  model.load(serialise(LIST));
  const before = model.text;
  model.hold({ track: "parts", index: 1 }, "move");
  for (let i = 1; i <= 50; i += 1) model.drag(-i / 50, 0, 0.05);
  assert.equal(texts.length, 0);
  model.drop(true);
  assert.equal(texts.length, 1);
  const after = model.text;
  assert.notEqual(after, before);
  model.undo();
  assert.equal(texts.at(-1), before);
  model.undo();
  assert.equal(model.text, before);
  model.redo();
  assert.equal(model.text, after);
});

test("a drag that is given up changes nothing", () => {
  const model = new Model(() => assert.fail("nothing is written"));
  model.load(serialise(LIST));
  const { text } = model;
  model.hold({ track: "images", index: 1 }, "level");
  model.drag(0, -0.5, 0);
  assert.equal(model.selected.entry.strength, 0.2);
  model.drop(false);
  assert.deepEqual([model.text, model.list.images[1].strength], [text, 0.7]);
});

test("text from outside is undone like an edit, and broken text keeps the history", () => {
  const model = new Model(() => {});
  model.load(serialise(LIST));
  model.load("{ broken");
  assert.ok(model.error);
  assert.deepEqual([model.items, model.words.slice(0, 12)], [[], "No shot list"]);
  model.load(serialise({ ...LIST, prompt: "other" }));
  model.undo();
  assert.equal(model.list.prompt, "a hall");
});

test("zoom keeps the second under the pointer, and shows the whole clip at least", () => {
  const view = fitted(5, 500);
  const near = zoomed(view, 4, 200, 5, 500);
  assert.ok(Math.abs(toSeconds(near, 200) - 2) < 1e-9);
  assert.ok(Math.abs(toX(near, toSeconds(near, 123)) - 123) < 1e-9);
  assert.deepEqual(zoomed(near, 0.001, 17, 5, 500), view);
  for (const scale of [0.01, 1, 100, 2000]) assert.ok(tickStep({ start: 0, scale }) > 0);
});

test("times snap to the beginnings of latent frames, else to frames", () => {
  const points = [0, 1 / 24, 9 / 24, 17 / 24];
  assert.equal(snapped(0.36, points, 0.05, 24), 9 / 24);
  assert.equal(snapped(0.5, points, 0.05, 24), 12 / 24);
  assert.equal(snapped(9, points, 0, 24), 9);
});

test("warnings name what stops a run and what is rounded", () => {
  const texts = (changes, ...known) => warningsOf({ ...LIST, ...changes }, ...known).map((one) => one.text).join("\n");
  assert.equal(texts({ audio: [] }), "120 frames become 121 (8k + 1), 5.042 s.");
  assert.match(texts({}, lengths), /The audio ends at 3.00 s/);
  assert.match(texts({ parts: [{ prompt: "" }], prompt: "" }), /There is no prompt yet/);
  assert.match(texts({ images: [{ file: "a.png", at: 9 }] }), /after the end/);
  assert.match(texts({ images: [{ file: "a.png" }, { file: "b.png" }] }), /first frame/);
  assert.match(texts({ images: [{ file: "a.png", at: "soon" }] }), /soon is no time/);
  assert.match(texts({ control: [{ file: "a.mp4" }] }), /LTX-2 Add Guide/);
  assert.match(texts({ clip: { width: 770, frames: 33 } }), /width 770 becomes 768/);
  assert.match(texts({}, lengths, (file) => file === "a.png"), /a.png is not in the input folder/);
});

test("a clip on the grid is planned as it is", () => {
  const plan = planClip(768, 512, { frames: 121 }, 24);
  assert.deepEqual([plan.width, plan.height, plan.frames, plan.audioLatents], [768, 512, 121, 127]);
  assert.equal(planClip(768, 512, { seconds: -1 }, 24), null);
  assert.equal(planClip(700, 512, { frames: 121 }, 24, "error"), null);
});

test("hostile lists are shown as text and never change what is global", () => {
  const model = new Model(() => {});
  const hostile = `{"format": "ltx2.shots/1", "__proto__": {"polluted": 1}, "parts": [{"from": {"valueOf": 1}, "prompt": ["<img onerror=alert(1)>"]}],
    "images": [{"file": {"a": 1}, "at": [], "strength": "x"}], "audio": [{"file": null, "trim": "no", "gain_db": {}}], "control": [{}]}`;
  model.load(hostile);
  assert.equal(model.error, "");
  for (const item of model.items) {
    for (const grip of ["move", "start", "end", "level"]) {
      model.hold(item, grip);
      model.drag(0.5, 0.1, 0.1);
      model.drop(false);
    }
    model.place = item;
    assert.equal(typeof model.words, "string");
    assert.ok(Number.isFinite(item.start) && Number.isFinite(item.end));
  }
  warningsOf(model.list);
  assert.equal({}.polluted, undefined);
});

test("a clip plan says what becomes of a typed size at once", () => {
  const typed = { width: 770, height: 512, length_unit: "seconds", length: 2.0416, fps: 24, snap: "nearest", stages: "2" };
  assert.equal(described(typed), "768 x 512, 49 frames at 24 fps = 2.042 s");
  assert.equal(described({ ...typed, fps: 0 }), "");
});

test("a file is read if its length is known and not too large", async (t) => {
  globalThis.OfflineAudioContext = class {
    decodeAudioData = async () => ({ getChannelData: () => new Float32Array(9), sampleRate: 9, duration: 1 });
  };
  t.after(() => delete globalThis.OfflineAudioContext);
  const expected = { 4: "ready", [2 ** 27 + 1]: "missing", none: "missing" };
  for (const [length, state] of Object.entries(expected)) {
    const headers = length === "none" ? {} : { "content-length": length };
    t.mock.method(globalThis, "fetch", async () => new Response(new Uint8Array(4), { headers }));
    const medium = await new Promise((done) => {
      const media = new Media({ apiURL: (path) => path }, () => done(media.of("a.wav", "audio")));
      media.of("a.wav", "audio");
    });
    assert.equal(medium.state, state, `a file of ${length} bytes`);
  }
});

test("whatever stops the player is told to its button, and nothing after it is gone", async (t) => {
  t.after(() => {
    delete globalThis.requestAnimationFrame;
    delete globalThis.cancelAnimationFrame;
  });
  Object.assign(globalThis, { requestAnimationFrame: () => 1, cancelAnimationFrame: () => {} });
  const model = new Model(() => {});
  const refused = () => Promise.reject(new Error("refused"));
  const video = { src: "clip.mp4", play: refused, pause: () => {}, removeAttribute: () => {}, load: () => {} };
  const shown = [];
  const player = new Player(model, {}, video, () => shown.push(player.playing));
  player.play();
  await new Promise(setImmediate);
  assert.deepEqual(shown, [false]);
  player.playing = true;
  player.pause();
  assert.deepEqual(shown, [false, false]);
  player.destroy();
  assert.equal(shown.length, 2);
});
