#!/usr/bin/env bash
# The picture of a report on the README's first screen:
#
#   scripts/report_picture.sh [FILE]        # docs/images/report.png
#
# Searches the default space for 3 ms on a T4, writes the report, and photographs its Pareto front in headless Chromium.
set -euo pipefail

out=$(realpath "${1:-docs/images/report.png}")
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
  echo "this needs Chromium: apt-get install chromium" >&2
  exit 2
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

maenas search --budget 3ms --device t4 --name searched-for-3ms --out "$work" > "$work/search.txt"
maenas report "$work/searched-for-3ms.json" damo-yolo-t damo-yolo-s --out "$work/report.html"
cat > "$work/frame.html" <<'HTML'
<!doctype html><body style="margin: 0; overflow: hidden">
<iframe src="report.html" style="border: 0; width: 1180px; height: 2400px"></iframe>
<script>
  const frame = document.querySelector("iframe");
  frame.onload = () => (frame.style.marginTop = `${20 - frame.contentDocument.getElementById("s2").offsetTop}px`);
</script>
HTML
"$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files \
  --blink-settings=preferredColorScheme=1 --user-data-dir="$work/profile" --virtual-time-budget=9000 \
  --window-size=1180,1130 --screenshot="$work/report.png" "file://$work/frame.html" 2> "$work/browser.txt"
mv "$work/report.png" "$out"
echo "wrote $out"
