(recipe) => {
  // The page shows the card some frames after this is called, and later where it is busy.
  const show = (tries) => {
    const card = document.querySelector('#details .details');
    if (card?.querySelector('h3')?.innerText !== recipe) {
      if (tries) setTimeout(() => show(tries - 1), 50);
      return;
    }
    card.tabIndex = -1;
    card.focus({ preventScroll: true });
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    card.scrollIntoView({ block: 'start', behavior: calm ? 'auto' : 'smooth' });
  };
  show(100);
}
