// The camera of the tab "Live": pictures go to the studio as they come, and answers are asked for one after another.
const part = (name) => element.querySelector(`[data-is=${name}]`);
const control = (name) => element.querySelector(`[data-do=${name}]`);
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const video = element.querySelector('video');
const SIDE = 256;  // pixels of a picture's short side
const BETWEEN = 66;  // milliseconds from a picture to the next
const SHOWN = 5;  // actions of the ranking
let run = null;  // while the camera is on

async function post(what, body) {
  const answer = await fetch(`live/${window.d2stToken}/${what}`, {method: 'POST', body});
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function start() {
  control('start').disabled = true;
  part('problem').textContent = '';
  try {
    const stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
    video.srcObject = stream;
    await video.play();
    await post('start');
    run = {stream};
    control('stop').disabled = false;
    part('speed').textContent = 'Watching until the first window is full.';
    send(run).catch(stopped(run));
    ask(run).catch(stopped(run));
  } catch (error) {
    stop();
    part('problem').textContent = error.name === 'NotFoundError' ? 'This computer has no camera that the browser finds.'
      : error.name === 'NotAllowedError' ? 'The browser was not allowed to use the camera.' : error.message;
  }
}

function stop() {
  run = null;
  for (const track of video.srcObject?.getTracks() || []) track.stop();
  video.srcObject = null;
  control('start').disabled = false;
  control('stop').disabled = true;
}

const stopped = (mine) => (error) => {
  if (run !== mine) return;
  stop();
  part('problem').textContent = error.message;
};

const on = (mine) => run === mine && element.isConnected;

async function send(mine) {
  const canvas = document.createElement('canvas');
  while (on(mine)) {
    const now = performance.now();
    const scale = Math.min(1, SIDE / Math.min(video.videoWidth, video.videoHeight));
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    canvas.getContext('2d').drawImage(video, 0, 0, canvas.width, canvas.height);
    const picture = await new Promise((done) => canvas.toBlob(done, 'image/jpeg', 0.9));
    await post(`frame?at=${now / 1000}`, picture);
    await pause(Math.max(0, BETWEEN - (performance.now() - now)));
  }
  if (run === mine) stop();  // the tab is gone
}

async function ask(mine) {
  while (on(mine)) {
    const found = await post('answer');
    if (!on(mine)) return;
    if (found.end === undefined) await pause(BETWEEN);
    else show(found);
  }
}

function show(found) {
  const answer = found.answer ?? 'Nothing is taught yet';
  if (part('answer').textContent !== answer) part('answer').textContent = answer;
  part('sure').textContent = found.answer === 'unknown' ? `none of the actions; most like ${found.likeliest}`
    : found.confidence === null ? '' : `${percent(found.confidence)} sure`;
  // Sorted again: an object puts names that are numbers first.
  const ranked = Object.entries(found.scores).sort(([, one], [, other]) => other - one);
  part('scores').replaceChildren(...(ranked.length > 1 ? ranked.slice(0, SHOWN) : []).map(bar));
  const latency = Math.round(performance.now() - 1000 * found.end);
  part('speed').textContent = `The last ${found.seconds.toFixed(1)} seconds, ${latency} ms after they ended; `
    + `${found.rate.toFixed(0)} pictures a second.`;
  offer(ranked.map(([name]) => name).sort());
}

// As cards.py writes it: only what is certain is 100 %.
const percent = (share) => (share >= 0.995 && share < 1 ? '> 99 %' : `${Math.round(100 * share)} %`);

function bar([name, score]) {
  const line = document.createElement('li');
  const [label, meter, share] = ['span', 'meter', 'span'].map((tag) => document.createElement(tag));
  label.className = 'd2st-name';
  label.textContent = name;
  meter.value = score;
  meter.setAttribute('aria-label', name);
  share.className = 'd2st-share';
  share.textContent = percent(score);
  line.append(label, meter, share);
  return line;
}

function offer(names) {
  const list = element.querySelector('datalist');
  if (list.children.length === names.length && names.every((name, i) => list.children[i].value === name)) return;
  list.replaceChildren(...names.map((name) => Object.assign(document.createElement('option'), {value: name})));
}

const add = () => trigger('seen', {name: part('name').value});

element.addEventListener('click', (event) => {
  const what = event.target.closest('button')?.dataset.do;
  if (what === 'start') start();
  if (what === 'stop') stop();
  if (what === 'add') add();
});
part('name').addEventListener('keydown', (event) => {
  if (event.key === 'Enter') add();
});
