// What a pressed button of a card asks for. It is replaced with its cards: whoever pressed it by key goes on from what
// took its place.
let pressed;
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button || !element.contains(button)) return;
  if (button.dataset.larger) return button.closest('figure').classList.toggle('d2st-larger');
  pressed = button.dataset.number ? `[data-number="${button.dataset.number}"]` : '[data-name]';
  if (button.dataset.name) trigger('remove', {name: button.dataset.name, key: button.dataset.key || ''});
  if (button.dataset.number) trigger('look', {number: Number(button.dataset.number)});
});
watch('value', () => {
  if (pressed && !element.contains(document.activeElement)) element.querySelector(pressed)?.focus();
  pressed = null;
});
