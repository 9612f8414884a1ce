# Makes /opt/stockade inside a build. Two steps, so that each can be a layer:
#   install.sh packages REQUIREMENTS    an environment without pip, with these packages by their hashes
#   install.sh project WHEEL            the project, checked against them; what is in it; the same bytes every time
set -eu
python=/opt/stockade/bin/python
pip="/build/bin/pip --python $python"

case $1 in
packages)
  python -m venv --without-pip --symlinks /opt/stockade
  $pip install --require-hashes --only-binary :all: --no-compile --requirement "$2"
  ;;
project)
  $pip install --no-deps --no-index --no-compile "$2"
  $pip check
  # Where the wheel lay says nothing about what is in it.
  find /opt/stockade -name direct_url.json -delete
  /build/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
    --output-file /opt/stockade/sbom.cdx.json "$python"
  # Compiled once, here: root filesystems are read-only. By hash, because times differ; all of it, because what ran above
  # has left some that go by time.
  "$python" -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/stockade/lib >/dev/null || true
  find /opt/stockade -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  ;;
esac
