"use strict";
{
  const PAUSE = 700; // milliseconds for which the last frame stands before a clip starts again
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const once = (target, name) => new Promise((done) => target.addEventListener(name, done, { once: true }));

  /* The videos of one clip: started together at every turn, so they cannot drift apart. */
  class Player {
    constructor(clip) {
      this.clip = clip;
      this.fps = Number(clip.dataset.fps);
      this.videos = [...clip.querySelectorAll("video")];
      this.play_button = clip.querySelector(".play");
      this.place = clip.querySelector(".place");
      this.output = clip.querySelector(".frame");
      this.wanted = !calm; // what the reader wants; out of sight it rests all the same
      this.visible = false;
      this.turn = 0; // counts starts and stops: what an older one still waits for is void
      for (const video of this.videos) {
        video.controls = video.loop = false;
        video.addEventListener("error", () => this.broken());
      }
      clip.querySelector(".player").hidden = false;
      Promise.all(this.videos.map((v) => v.readyState >= 2 || once(v, "loadeddata"))).then(() => this.ready());
    }

    ready() {
      this.frames = Math.min(...this.videos.map((video) => Math.round(video.duration * this.fps)));
      this.place.max = this.frames - 1;
      this.clip.querySelector(".back").onclick = () => this.step(-1);
      this.clip.querySelector(".next").onclick = () => this.step(1);
      this.place.oninput = () => { this.stop(); this.seek(Number(this.place.value)); };
      this.play_button.onclick = () => { this.wanted = !this.wanted; this.wanted ? this.start() : this.rest(); };
      this.clip.querySelector(".speed").onchange = (event) => {
        for (const video of this.videos) video.playbackRate = Number(event.target.value);
      };
      this.videos[0].addEventListener("ended", () => this.again());
      new IntersectionObserver(([entry]) => {
        this.visible = entry.isIntersecting;
        this.visible && this.wanted ? this.start() : this.rest();
      }).observe(this.clip);
      this.show(0);
    }

    broken() {
      this.output.textContent = "This browser does not play H.264 (mp4)";
    }

    show(frame) {
      this.place.value = frame;
      this.output.textContent = `frame ${frame} of ${this.frames - 1}`;
      this.play_button.textContent = this.wanted ? "Pause" : "Play";
    }

    frame() {
      return Math.min(this.frames - 1, Math.floor(this.videos[0].currentTime * this.fps + 1e-3));
    }

    async seek(frame) {
      this.show(frame);
      const places = this.videos.map((video) => {
        const done = once(video, "seeked");
        video.currentTime = (frame + 0.5) / this.fps; // the middle of a frame is safe from rounding
        return done;
      });
      await Promise.all(places);
    }

    async start() {
      const turn = ++this.turn;
      await this.seek(this.frame() >= this.frames - 1 ? 0 : this.frame());
      if (turn !== this.turn) return;
      await Promise.all(this.videos.map((video) => video.play())).catch(() => this.stop());
      const follow = () => {
        if (turn !== this.turn) return;
        this.show(this.frame());
        requestAnimationFrame(follow);
      };
      follow();
    }

    again() {
      const turn = this.turn;
      setTimeout(() => turn === this.turn && this.wanted && this.start(), PAUSE);
    }

    rest() {
      this.turn++;
      for (const video of this.videos) video.pause();
      this.show(this.frame());
    }

    stop() {
      this.wanted = false;
      this.rest();
    }

    step(by) {
      const frame = this.frame();
      this.stop();
      this.seek((frame + by + this.frames) % this.frames);
    }
  }

  for (const clip of document.querySelectorAll(".clip")) new Player(clip);
  for (const button of document.querySelectorAll(".zoom")) {
    button.onclick = () => button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
  }
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
}
