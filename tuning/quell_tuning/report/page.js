"use strict";

// Sounds in step: all of a clip run at once from the same instant, each through a gain, and switching moves the gains.
class Player {
  static FADE_S = 0.01;
  static SEEK_S = 1;

  constructor(section) {
    this.root = section.querySelector(".player");
    this.clips = [...section.querySelectorAll(".clip")];
    this.slider = this.root.querySelector("input[type=range]");
    this.select = this.root.querySelector("select");
    this.loop = this.root.querySelector(".loop input");
    this.decoded = new Map(); // clip -> Map of sound -> AudioBuffer
    this.clip = 0;
    this.sound = "denoised";
    this.running = null; // { gains, sources, master, begun, seconds } while it plays
    this.paused = 0; // s, where it goes on
    this.wanted = 0; // of several calls of `play` the last one counts
    section.classList.add("scripted");
    this.root.hidden = false;
    section.querySelector(".keys").hidden = false;
    this.listen();
    this.choose(0);
  }

  get heard() {
    return this.sound === "denoised" ? `denoised ${this.select.value}` : this.sound;
  }

  get seconds() {
    return this.running ? this.running.seconds : this.length || 0;
  }

  get position() {
    if (!this.running) return this.paused;
    const passed = this.context.currentTime - this.running.begun;
    return Math.max(0, this.loop.checked ? passed % this.seconds : Math.min(passed, this.seconds));
  }

  async sounds(clip) {
    if (!this.decoded.has(clip)) {
      const article = this.clips[clip];
      const named = [...article.querySelectorAll("audio")].map((audio) => {
        const take = audio.closest(".take");
        return [take ? `denoised ${take.dataset.take}` : audio.dataset.sound, audio.getAttribute("src")];
      });
      const decode = async ([name, source]) => {
        const bytes = Uint8Array.from(atob(source.slice(source.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
        return [name, await this.context.decodeAudioData(bytes.buffer)];
      };
      this.decoded.set(clip, new Map(await Promise.all(named.map(decode))));
    }
    return this.decoded.get(clip);
  }

  async play(position = this.paused) {
    const call = ++this.wanted;
    this.context ??= new AudioContext();
    try {
      await this.context.resume();
      const sounds = await this.sounds(this.clip);
      if (call === this.wanted) this.start(sounds, position);
    } catch (error) {
      this.giveUp(error);
    }
  }

  start(sounds, position) {
    this.stop();
    const now = this.context.currentTime + 0.005; // a moment ahead: all of them begin at it, none late
    const seconds = Math.min(...[...sounds.values()].map((buffer) => buffer.duration));
    const offset = position < seconds ? Math.max(0, position) : 0;
    const master = this.context.createGain();
    master.gain.setValueAtTime(0, this.context.currentTime);
    master.gain.setTargetAtTime(1, now, Player.FADE_S / 3);
    master.connect(this.context.destination);
    const gains = new Map();
    const sources = [...sounds].map(([name, buffer]) => {
      const gain = this.context.createGain();
      gain.gain.value = name === this.heard ? 1 : 0;
      gain.connect(master);
      gains.set(name, gain);
      const source = this.context.createBufferSource();
      source.buffer = buffer;
      source.loop = this.loop.checked;
      source.loopEnd = seconds;
      source.connect(gain);
      source.start(now, offset);
      return source;
    });
    this.running = { gains, sources, master, begun: now - offset, seconds };
    const running = this.running;
    sources[0].onended = () => {
      if (this.running === running) {
        this.stop();
        this.paused = 0;
        this.show();
      }
    };
    this.length = seconds;
    this.show();
    this.tick();
  }

  stop() {
    if (!this.running) return;
    this.paused = this.position;
    const { master, sources } = this.running;
    this.running = null;
    const now = this.context.currentTime;
    master.gain.setTargetAtTime(0, now, Player.FADE_S / 3);
    for (const source of sources) source.stop(now + 3 * Player.FADE_S);
  }

  toggle() {
    if (this.running) {
      this.wanted++;
      this.stop();
      this.show();
    } else {
      this.play();
    }
  }

  seek(position) {
    const end = this.seconds || Infinity;
    const inside = this.loop.checked && end < Infinity ? (position + end) % end : Math.min(Math.max(0, position), end);
    if (this.running) {
      this.play(inside);
    } else {
      this.paused = inside;
      this.show();
    }
  }

  choose(clip) {
    this.clip = (clip + this.clips.length) % this.clips.length;
    const played = this.running !== null;
    this.stop();
    this.paused = 0;
    this.length = Number(this.clips[this.clip].dataset.seconds);
    this.show();
    if (played) this.play(0);
  }

  hear(sound) {
    this.sound = sound;
    if (this.running) {
      const now = this.context.currentTime;
      for (const [name, gain] of this.running.gains) {
        gain.gain.setTargetAtTime(name === this.heard ? 1 : 0, now, Player.FADE_S / 3);
      }
    }
    this.show();
  }

  giveUp(error) {
    const trouble = this.root.querySelector(".trouble");
    trouble.textContent = `This browser cannot play the sounds in step (${error.message}); the players below play them one by one.`;
    trouble.hidden = false;
    document.getElementById("listen").classList.remove("scripted");
  }

  show() {
    const press = (selector, isOn) => {
      for (const button of this.root.querySelectorAll(selector)) button.setAttribute("aria-pressed", isOn(button.dataset));
    };
    press(".clips button", (data) => Number(data.clip) === this.clip);
    press(".sounds button", (data) => data.sound === this.sound);
    this.clips.forEach((article, index) => {
      article.classList.toggle("active", index === this.clip);
      for (const take of article.querySelectorAll(".take")) {
        take.classList.toggle("active", take.dataset.take === this.select.value);
      }
    });
    this.root.querySelector(".play").setAttribute("aria-label", this.running ? "Pause" : "Play");
    Object.assign(this.root.dataset, { playing: this.running !== null, sound: this.sound, heard: this.heard, clip: this.clip });
    this.slider.max = this.seconds;
    this.showPosition();
  }

  showPosition() {
    const [now, end] = [this.position.toFixed(1), this.seconds.toFixed(1)];
    this.root.dataset.position = this.position.toFixed(3);
    this.slider.value = this.position;
    this.slider.setAttribute("aria-valuetext", `${now} of ${end} seconds`);
    this.root.querySelector(".time").textContent = `${now} / ${end} s`;
  }

  tick() {
    if (!this.running) return;
    this.showPosition();
    requestAnimationFrame(() => this.tick());
  }

  listen() {
    const on = (selector, kind, act) => {
      for (const found of this.root.querySelectorAll(selector)) found.addEventListener(kind, (event) => act(found, event));
    };
    // After a click of the mouse the space bar plays and pauses; a button that is focused by Tab keeps it.
    const free = (event) => event.detail && this.root.focus({ preventScroll: true });
    on(".clips button", "click", (button, event) => (this.choose(Number(button.dataset.clip)), free(event)));
    on(".sounds button", "click", (button, event) => (this.hear(button.dataset.sound), free(event)));
    on(".play", "click", (_, event) => (this.toggle(), free(event)));
    on("input[type=range]", "input", () => this.seek(Number(this.slider.value)));
    on("select", "change", () => this.hear("denoised"));
    on(".loop input", "change", () => this.setLoop());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  setLoop() {
    if (!this.running) return;
    this.running.begun = this.context.currentTime - (this.context.currentTime - this.running.begun) % this.seconds;
    for (const source of this.running.sources) source.loop = this.loop.checked;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, summary")) return;
    const box = this.root.getBoundingClientRect();
    const inSight = box.bottom > 0 && box.top < innerHeight;
    if (!inSight && !this.running) return; // the page is read elsewhere: its keys scroll
    const button = event.target.matches("button, a, input[type=checkbox]");
    const own = this.root.contains(event.target) || this.running;
    const acts = {
      1: () => this.hear("noisy"), 2: () => this.hear("denoised"), 3: () => this.hear("clean"),
      n: () => this.hear("noisy"), d: () => this.hear("denoised"), c: () => this.hear("clean"),
      " ": !button && (() => this.toggle()),
      ArrowLeft: own && (() => this.seek(this.position - Player.SEEK_S)),
      ArrowRight: own && (() => this.seek(this.position + Player.SEEK_S)),
      ArrowUp: own && (() => this.choose(this.clip - 1)),
      ArrowDown: own && (() => this.choose(this.clip + 1)),
    };
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

function sortBy(head) {
  const row = head.parentElement;
  const column = [...row.children].indexOf(head);
  const sorted = head.getAttribute("aria-sort");
  const rising = sorted ? sorted === "descending" : head.classList.contains("cost"); // the best first
  for (const other of row.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const table = row.closest("table");
  const text = head.classList.contains("text");
  const value = (body) => body.rows[0].children[column].dataset.value;
  const bodies = [...table.tBodies].filter((body) => !body.classList.contains("fixed"));
  bodies.sort((a, b) => {
    const [left, right] = rising ? [value(a), value(b)] : [value(b), value(a)];
    if (left === "" || right === "") return (value(a) === "") - (value(b) === ""); // unknown ones stay last
    return text ? left.localeCompare(right) : left - right;
  });
  table.append(...bodies);
}

for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}
const section = document.getElementById("listen");
if (section && section.querySelector(".player")) new Player(section);
